// Package overlay mounts stacks of layer directories as one tree and brings the
// upper directory of a stack into its final form: hard links joined, times clamped, data
// on disk.
//
// It knows directories only. Which directories belong to which checkpoint is
// the business of package store.
package overlay
