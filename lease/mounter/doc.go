// Package mounter is the half of ossify-loop that has rights: it makes backing
// files, runs mkfs on them, mounts them, and hands out mounts and finished bytes.
//
// It believes the broker nothing. A lease begins with the client's own connection,
// of which the kernel tells who is at the other end; requests are decoded and
// checked again; quotas are counted here, where the files are.
//
//	broker → mounter   client's connection, one end of a new socket pair
//	mounter → broker   reply to 0 on the new pair: who it is, or why nobody
//	broker ↔ mounter   the client's requests and their replies, on the new pair
//	broker closes it   the lease ends
//
// What is mounted was made by mkfs on a file that only the kernel has written to
// since, so no client decides what the kernel's filesystems parse.
package mounter
