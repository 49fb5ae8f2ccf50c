package mounts

import (
	"context"
	"strconv"

	"github.com/ossify/ossify/module"
)

type fatOptions struct {
	ReadOnly bool `json:"readonly"`
	// UID, GID and Umask are those of all files: FAT stores none.
	UID       *int   `json:"uid"`
	GID       *int   `json:"gid"`
	Umask     string `json:"umask"`
	Shortname string `json:"shortname"`
}

// fat mounts a device's FAT filesystem.
func fat(_ context.Context, call *module.MountCall, o fatOptions) (string, func() error, error) {
	var data []string
	if o.UID != nil {
		data = append(data, "uid="+strconv.Itoa(*o.UID))
	}
	if o.GID != nil {
		data = append(data, "gid="+strconv.Itoa(*o.GID))
	}
	if o.Umask != "" {
		data = append(data, "umask="+o.Umask)
	}
	if o.Shortname != "" {
		data = append(data, "shortname="+o.Shortname)
	}
	return filesystem("vfat", call, o.ReadOnly, data...)
}
