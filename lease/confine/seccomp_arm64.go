package confine

import "golang.org/x/sys/unix"

const architecture = unix.AUDIT_ARCH_AARCH64

// oldCalls are none here.
func oldCalls() []uint32 { return nil }
