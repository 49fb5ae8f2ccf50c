package sources

import (
	"errors"
	"sync"
)

// hosts remembers servers that do not work: a build of hundreds of files is not
// to wait for a dead mirror hundreds of times.
type hosts struct {
	mu   sync.Mutex
	down map[string]error
}

// giveUp notes that a file could not be had from the server, and why, after all
// the tries that a file gets.
func (h *hosts) giveUp(host string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down == nil {
		h.down = map[string]error{}
	}
	if h.down[host] == nil {
		h.down[host] = err
	}
}

// works notes that the server gave us a file.
func (h *hosts) works(host string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.down, host)
}

// broken returns why the server was given up, or nil.
func (h *hosts) broken(host string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down[host]
}

// serverFault is an error that the next file from that server would meet too:
// there was no connection, or a status that is not about the file.
type serverFault struct{ error }

// Unwrap returns the error itself.
func (e serverFault) Unwrap() error { return e.error }

func isServerFault(err error) bool {
	var fault serverFault
	return errors.As(err, &fault)
}
