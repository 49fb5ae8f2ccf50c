// Package module is osbuild's module ABI as Go: what a native stage, assembler,
// source, input or runner imports, and all that it imports of Ossify's engine.
//
// A stage or assembler is started inside a build root and reads its arguments
// from a file:
//
//	engine                               module (in the sandbox)
//	  | writes /run/osbuild/api/arguments   |
//	  | starts /run/osbuild/bin/NAME ------>| decodes arguments and options
//	  |                                     | changes Args.Tree
//	  |<---- exception on api/osbuild ------| (only when it fails)
//	  |<------------ exit status -----------|
//
// What a user namespace cannot store in a tree (package record) is in its side
// record. If the stage's tree or an input that is a tree has one, the arguments
// name the file, "record" beside "tree" and beside the input's "path". A stage that
// changes the record of its tree leaves all of it in /run/osbuild/record; without
// that file the record stays as it is.
//
// Two members of a stage's NAME.meta.json are for stages that solve and download
// packages themselves, as those of osbuild's first releases did. "network": true
// gives it the network of the engine; all others have none. "sources" lists
// sources whose items, with what --secrets has for them, it finds in its arguments
// as "sources"; they are in no id, no result and no layer.
//
// A source or input is a host service: started outside the sandbox with
// --service-fd, it answers method calls on that socket until it is closed:
//
//	engine                               service
//	  | {"type":"method","data":{"name":..,"args":..}} --> |
//	  | <-- {"type":"signal","data":{"reply":..}}  (any)   |
//	  | <-- {"type":"reply","data":{"reply":..}}           |
//	  |  or {"type":"exception","data":{"name","value","backtrace"}}
//	  | closes the socket -------------------------------> | cleans up, exits
//
// An input may name mounts of its own, below its target, that the stage may
// change: "writable" in its reply, beside osbuild's "path" and "data", is a list
// of their paths in the target. Everything else of it is read-only for the stage.
//
// A source tells of a download's progress in signals, about ten a second. Bytes
// and items of the cache count as done; "total" is 0 while it is not known:
//
//	{"done": BYTES, "total": BYTES, "items-done": N, "items-total": N}
//
// A runner is started inside the build root, as RUNNER COMMAND ARG...; it makes
// of the nearly empty /etc and /var what programs of the build root need and
// becomes the command. "setup": "once" in its NAME.meta.json says that all it
// does lies in the file tree outside /run, /tmp and /dev and is the same each
// time. The engine then runs it once per build root, with /usr/bin/true, keeps
// what it made as a layer, and starts stages on it without the runner.
package module
