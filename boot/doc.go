// Package boot starts a finished disk image in QEMU, for people to try and
// for tests to talk to over the serial console.
//
// The image is never written: QEMU puts changes into a temporary overlay that
// vanishes with the machine. The package knows nothing of manifests, stores
// or how the image was made, and it does not read filesystems.
//
//	Run ──> Start ──> launch (KVM) ── silent or broken? ──> launch (TCG)
//	              │
//	              └─> Machine: Expect, Send, Tail, Close
package boot
