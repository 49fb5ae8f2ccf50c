// Package compose turns a blueprint into a pinned manifest.
//
// A blueprint is osbuild-composer's TOML. The manifest is of format 2 and names
// every package by URL, size and sha256, so that building it needs neither a
// package solver nor a decision.
//
//	blueprint --ReadBlueprint--> Blueprint --+
//	                                         +--Manifest--> JSON
//	mirror --apt-get update (signed)--> lists -- apt-get --print-uris --+
//
// Which packages are needed is apt's decision alone: it runs with a private
// configuration and an empty status file, through Options.Exec, which confines
// it. This package neither installs nor builds anything; package pipeline runs
// the manifest.
package compose
