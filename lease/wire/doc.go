// Package wire is the language of ossify-loop's socket: frames of SOCK_SEQPACKET
// with descriptors beside them. It decodes and checks; it does nothing.
//
// One connection is one lease. A client asks, and gets one reply for each request
// in order:
//
//	client                           helper
//	  |                                | who is it? if nobody, the end
//	  |                              ← | reply
//	  | request CREATE               → |
//	  |                              ← | reply
//	  | request PARTITION            → |
//	  |                              ← | reply, value: index
//	  | request MKFS                 → |
//	  |                              ← | reply
//	  | request MOUNT                → |
//	  |                              ← | reply, a mount
//	  | ... the mount is used and unmounted ...
//	  | request EXPORT               → |
//	  |                              ← | reply, the partition's bytes
//	  | request CLOSE, or the end    → |
//
// Numbers are little endian:
//
//	request: version u8, verb u8, body of the verb's size
//	reply:   version u8, errno u32, value u64, text [3072]byte
//
// A body is a struct of fixed size, so that a frame that decodes encodes to the
// same bytes. There is no path in any, and only LABEL takes a descriptor.
package wire
