package mounter

import (
	"bytes"
	"fmt"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// status returns a memfd with a table of the caller's leases, or for root of all.
func (m *Mounter) status(c *caller) (int, error) {
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "LEASE\tUSER\tSIZE\tPARTITIONS\tAGE\tSTATE")
	type sum struct {
		name   string
		bytes  uint64
		leases int
	}
	sums := map[uint32]sum{}
	order := []uint32{}
	if c.uid != 0 {
		sums[c.uid], order = sum{name: c.name}, append(order, c.uid)
	}
	m.mu.Lock()
	for _, l := range m.leases {
		if c.uid != 0 && c.uid != l.uid {
			continue
		}
		state := "leased"
		if l.dropped {
			state = "dropped, still in use"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", l.number, l.name, size(l.size), size(l.used), time.Since(l.begun).Round(time.Second), state)
		s, known := sums[l.uid]
		if !known {
			order = append(order, l.uid)
		}
		sums[l.uid] = sum{l.name, s.bytes + l.size, s.leases + 1}
	}
	m.mu.Unlock()
	fmt.Fprintln(w, "\nUSER\tLEASES\tOF\tBYTES\tOF\tLEFT")
	for _, uid := range order {
		s := sums[uid]
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\n", s.name, s.leases, m.Leases, size(s.bytes), size(m.Quota), size(m.Quota-s.bytes))
	}
	w.Flush()

	fd, err := unix.MemfdCreate("status", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("make the status: %w", err)
	}
	if _, err := unix.Pwrite(fd, table.Bytes(), 0); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("write the status: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals|unix.F_SEAL_SEAL); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("seal the status: %w", err)
	}
	return fd, nil
}

// size writes bytes for people.
func size(bytes uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, i := float64(bytes), 0
	for ; value >= 1024 && i < len(units)-1; i++ {
		value /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %s", value, units[i])
}
