// Package compose turns a blueprint into a pinned manifest.
//
// A blueprint is osbuild-composer's TOML. The manifest is of format 2 and names
// every package by URL, size and sha256, so that building it needs neither a
// package solver nor a decision.
//
//	blueprint --ReadBlueprint--> Blueprint --+
//	                                         +--Manifest--> JSON
//	mirror --apt-get update (signed)--> lists -- apt-get --print-uris --+
//	mirror --dnf_solver.py refresh--> metadata -- dnf_solver.py solve --+
//
// Which packages are needed is the decision of apt alone, or of dnf alone where
// packages are RPM's: they run with a private configuration and an empty list of
// installed packages, through Options.Exec, which confines them. This package
// neither installs nor builds anything; package pipeline runs the manifest.
package compose
