// Package record is the side record of a tree: what a user namespace cannot
// store in the tree itself. These are SELinux labels, which kernels with SELinux
// let only their own administrator set, inode flags such as immutable, and device
// nodes.
// Modules that change it leave a new one, modules that read trees put it where it
// belongs: into filesystems, archives and copies.
//
// Entries belong to paths. For a path that is not in the tree only a device counts,
// which is nowhere else; for one that is, a device does not.
package record
