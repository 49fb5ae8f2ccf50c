// Package store keeps what Ossify has built: trees as layers of a
// containers/storage store, sources as content-addressed files beside it.
//
//	STORE/storage/      a plain containers/storage graph root (podman --root)
//	STORE/sources/      downloaded content, by content type and checksum
//	STORE/lib/          the native modules, one folder for each build of ossify
//	STORE/digests/      digests of files, by what stat(2) says of them
//	STORE/stages.lock   has a byte locked for each stage that is being built
//	STORE/run/          one folder for each running engine, with its scratch
//
// A layer is created with the flag "ossify" (the run that made it) and
// "ossify-key" (what besides the stage id must be equal for it to be used
// again). It becomes a checkpoint when it gets the stage id as a name. A flagged
// layer without a name whose run is over is garbage. Layers without the flag are
// somebody else's and never touched.
package store
