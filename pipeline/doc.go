// Package pipeline turns a manifest into a plan and runs it.
//
//	bytes --Load--> Manifest (formats 1 and 2, schemas checked, ids)
//	      --Run---> for each stage: layer, build root, container, commit
//
// Load and Describe need no privilege and touch no store. The engine knows no
// module by name: what a module is, takes and may do is in its meta.json.
package pipeline
