// Package seccomp is the system-call profile of stages.
//
// It is that of podman's containers (go.podman.io/common), which refuses what could be used against
// the kernel or the machine, without some calls more that no build needs: internal/profile says
// which. What works on namespaces is allowed, as a stage has its own of all of them.
//
//	a stage's process           the filter              the engine
//	  | read(2), mount(2) ... -----> | goes on
//	  | bpf(2) ---------------------> | notes it ----------> | remembers name and program
//	  | EPERM <---------------------------------------------- |
//	  | a call newer than the profile | ENOSYS
//
//go:generate go run ./internal/generate
package seccomp
