package mounter

import (
	"bytes"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// status returns a memfd with a table of the caller's leases, or for root of all. It
// is to be closed even if there is an error beside it.
func (m *Mounter) status(c *caller) (int, error) {
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "LEASE\tUSER\tSIZE\tPARTITIONS\tAGE\tSTATE")
	m.mu.Lock()
	names := []*caller{}
	for _, l := range m.leases {
		if c.uid != 0 && c.uid != l.uid {
			continue
		}
		state := map[bool]string{false: "leased", true: "dropped, still in use"}[l.dropped]
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", l.number, l.name, size(l.size), size(l.used), time.Since(l.begun).Round(time.Second), state)
		if !slices.ContainsFunc(names, func(o *caller) bool { return o.uid == l.uid }) {
			names = append(names, l.caller)
		}
	}
	fmt.Fprintln(w, "\nUSER\tLEASES\tOF\tBYTES\tOF\tLEFT")
	for _, u := range names {
		bytes, count := m.usage(u.uid)
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\n", u.name, count, m.Leases, size(bytes), size(m.Quota), size(m.Quota-bytes))
	}
	m.mu.Unlock()
	w.Flush()

	fd, err := unix.MemfdCreate("status", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("make the status: %w", err)
	}
	if _, err = unix.Pwrite(fd, table.Bytes(), 0); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals|unix.F_SEAL_SEAL)
	}
	return fd, wire.In("write the status", err)
}

// size writes bytes for people.
func size(bytes uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value := float64(bytes)
	for ; value >= 1024 && len(units) > 1; units = units[1:] {
		value /= 1024
	}
	return fmt.Sprintf("%.1f %s", value, units[0])
}
