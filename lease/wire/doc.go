// Package wire is the language of ossify-loop's socket: frames of SOCK_SEQPACKET
// with descriptors beside them. It decodes and checks; it does nothing.
//
// One connection is one lease. A client asks, and gets one reply for each request
// in order:
//
//	client                           helper
//	  |                                | who is it? if nobody, the end
//	  |                              ← | reply 0
//	  | request 1 CREATE             → |
//	  |                              ← | reply 1
//	  | request 2 PARTITION          → |
//	  |                              ← | reply 2, value: index
//	  | request 3 MKFS               → |
//	  |                              ← | reply 3
//	  | request 4 MOUNT              → |
//	  |                              ← | reply 4, a mount
//	  | ... the mount is used and unmounted ...
//	  | request 5 EXPORT             → |
//	  |                              ← | reply 5, the partition's bytes
//	  | request 6 CLOSE, or the end  → |
//
// A reply with a descriptor comes a second time without, when the helper has closed
// it: a mount that was sent could not be unmounted before.
//
// Numbers are little endian:
//
//	request: version u8, verb u8, zero u16, sequence u32, body of the verb's size
//	reply:   version u8, zero [3]u8, sequence u32, errno u32, value u64, text
//
// A body is a struct of fixed size, so that a frame that decodes encodes to the
// same bytes. There is no path in any, and only LABEL takes a descriptor.
package wire
