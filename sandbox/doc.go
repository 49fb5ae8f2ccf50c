// Package sandbox confines what Ossify runs: it enters the user namespace, lays
// out build roots, runs modules in containers and speaks the module ABI with
// them.
//
// A container's whole file tree is mounted by the engine before the container's
// own (nested) user and mount namespaces are made. The kernel locks mounts that
// come from a more privileged namespace, so a stage that holds CAP_SYS_ADMIN in
// its container can neither make them writable nor take them away
// (mount_namespaces(7), "Restrictions on mount namespaces"). /proc, /dev and /sys
// are mounted inside: they are the container's own, and a stage may mount them once
// more in a tree.
//
//	engine (user namespace of the user)        container (nested namespaces)
//	  | mount root, /usr, tree, inputs, api       |
//	  | libcontainer: clone, map ids -----------> | /proc, /dev, /sys, pivot_root
//	  | <------------- output ------------------- | runs the module
//	  | unmount root                              |
package sandbox
