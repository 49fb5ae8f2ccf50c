package lease

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// PrintStatus writes what "ossify-loop status" shows of the helper that listens at path,
// "" for DefaultPath.
func PrintStatus(ctx context.Context, path string, to io.Writer) error {
	if path == "" {
		path = DefaultPath
	}
	c, err := Dial(ctx, path)
	if err != nil {
		return err
	}
	defer c.Close()
	table, err := c.Status(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(to, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "LEASE\tUSER\tSIZE\tPARTITIONS\tAGE\tSTATE")
	var users []string
	count, bytes := map[string]int{}, map[string]uint64{}
	for _, l := range table.Leases {
		state := map[bool]string{false: "leased", true: "dropped, still in use"}[l.Dropped]
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", l.Number, l.User, size(l.Size), size(l.Used), time.Duration(l.Seconds)*time.Second, state)
		if count[l.User] == 0 {
			users = append(users, l.User)
		}
		count[l.User]++
		bytes[l.User] += l.Size
	}
	fmt.Fprintln(w, "\nUSER\tLEASES\tOF\tBYTES\tOF\tLEFT")
	for _, u := range users {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\n", u, count[u], table.Limit, size(bytes[u]), size(table.Quota), size(table.Quota-bytes[u]))
	}
	return w.Flush()
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
