// Package fat reads FAT filesystems in files into directories and writes them
// back, for people who may not mount them.
package fat
