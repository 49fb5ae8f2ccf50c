// Package selinux finds the SELinux context of a path in a policy's
// file_contexts, as libselinux does for setfiles(8): no kernel and no policy of
// this machine has a say. It sets no label.
package selinux
