// Package qcow2 writes qcow2 version 3 images from raw disk contents.
//
// It is a one-way writer: the contents come from one or several sparse files
// (or memory) laid out at disk offsets, the result is a complete image. It does
// not read, change, snapshot or back images by other images; qemu does that.
//
// The bytes of an image depend on the disk's contents and the options that
// shape it (cluster size, compression, level), never on the number of threads,
// on timing, or on where the source files happen to have holes: clusters of
// zeros are left out however they are stored.
//
// The format is the one of QEMU's docs/interop/qcow2.rst. Layout on disk:
//
//	cluster 0     header
//	cluster 1...  data in guest order; the L2 table of a span follows its data
//	              then the L1 table, the refcount blocks, the refcount table
//
// The header is written last, so that an image cut short is never taken for a
// whole one.
package qcow2
