// Package unxz decompresses xz files quickly: blocks side by side, each
// straight into a buffer of its final size. Debian packages are xz files of
// several blocks and the time to unpack them is the time to build a system.
//
// It reads a file that can be sought (io.ReaderAt), because block sizes stand
// in the index at the end. It knows the LZMA2 filter alone, which is what
// dpkg-deb writes, and it does not compress. Blocks too large for a buffer are
// streamed through github.com/ulikunitz/xz.
package unxz
