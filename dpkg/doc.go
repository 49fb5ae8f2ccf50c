// Package dpkg installs a fixed set of Debian packages into an empty tree,
// offline. It chooses nothing: which packages are installed was decided by a
// solver, and a set that does not fit together is refused by name.
//
// Unpacking is done here and not by dpkg, because dpkg unpacks one package
// after the other, each behind a pipe; configuring is done by the tree's own
// dpkg, which runs the maintainer scripts and rewrites its database. Between
// the two stands the database: what Install writes there is what
// "dpkg --unpack" would have written.
//
//	debs --> spool (side by side: decompress, write files under a number)
//	           |  in order of installation
//	           v
//	         place (one after the other: preinst, names, owners, diversions,
//	           |    replaced files, database records "unpacked")
//	           v
//	         dpkg --configure (in the tree)  while the next debs are spooled
//
// The order is that of debootstrap: the essential packages and what they
// depend on are placed together and configured, then the other packages, each
// after its pre-dependencies, and last the kernels with what depends on them,
// so that an initramfs is generated once, by a complete system.
package dpkg
