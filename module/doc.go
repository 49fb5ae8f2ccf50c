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
// A source or input is a host service: started outside the sandbox with
// --service-fd, it answers method calls on that socket until it is closed:
//
//	engine                               service
//	  | {"type":"method","data":{"name":..,"args":..}} --> |
//	  | <-- {"type":"signal","data":{"reply":..}}  (any)   |
//	  | <-- {"type":"reply","data":{"reply":..}}           |
//	  |  or {"type":"exception","data":{"name","value","backtrace"}}
//	  | closes the socket -------------------------------> | cleans up, exits
package module
