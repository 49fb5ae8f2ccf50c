package sources

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// retries is how often a URL is tried again.
const retries = 3

// lasting is an error that another try of the same URL will not mend.
type lasting struct{ error }

// Unwrap returns the error itself.
func (e lasting) Unwrap() error { return e.error }

// isLasting says whether there is no use in trying the same URL again.
func isLasting(err error) bool {
	var last lasting
	var cert *tls.CertificateVerificationError
	return errors.As(err, &last) || errors.As(err, &cert)
}

// transfer is the download of one item.
type transfer struct {
	*downloader
	item    *curlItem
	client  *http.Client
	partial *partial
	// counted bytes of this item are in the progress.
	counted int64
}

// run tries the URLs in turn, each up to 1+retries times or as long as more of
// the file comes, and publishes the file. The error is that of the first URL, which is the one that people know.
func (t *transfer) run(ctx context.Context, urls []*url.URL) error {
	errs := make([]error, len(urls))
	given := make([]bool, len(urls))
	left, most := len(urls), t.partial.n
	for round := 0; round <= retries && left > 0; round++ {
		if round > 0 {
			select {
			case <-time.After(t.backoff << (round - 1)):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		for i, u := range urls {
			if given[i] {
				continue
			}
			if err := t.hosts.broken(u.Host); err != nil {
				if errs[i] == nil {
					errs[i] = fmt.Errorf("%s: not tried, as the server failed before: %w", u.Redacted(), err)
				}
				given[i] = true
				left--
				continue
			}
			err := t.try(ctx, u)
			t.count()
			if err == nil {
				t.hosts.works(u.Host)
				return nil
			}
			var other mismatch
			if errs[i] = err; !errors.As(err, &other) { // that names the URL
				errs[i] = fmt.Errorf("%s: %w", u.Redacted(), explain(err))
			}
			if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || ctx.Err() != nil {
				return errs[i] // no other server mends that
			}
			switch {
			case isLasting(err):
				given[i] = true
				left--
			case t.partial.n > most: // slowly, but it gets on
				most, round = t.partial.n, 0
			case round == retries && isServerFault(err):
				t.hosts.giveUp(u.Host, errs[i])
			}
		}
	}
	if len(urls) > 1 {
		return fmt.Errorf("%w (%d mirrors failed, too; the last: %w)", errs[0], len(urls)-1, errs[len(urls)-1])
	}
	return errs[0]
}

// try downloads from one URL, going on with what there is. Should that not have
// the right checksum, it starts over once.
func (t *transfer) try(ctx context.Context, u *url.URL) error {
	for {
		resumed := t.partial.n > 0
		if t.partial.n > t.limit() {
			if err := t.partial.restart(); err != nil {
				return lasting{err}
			}
		}
		t.count()
		if err := t.fetch(ctx, u, &resumed); err != nil {
			return err
		}
		got := t.partial.checksum.sum(t.partial.hash)
		if got == t.partial.checksum.text {
			t.progress.size(got, t.partial.n)
			if err := t.partial.publish(t.Download); err != nil {
				return lasting{err}
			}
			return nil
		}
		n := t.partial.n
		if err := t.partial.restart(); err != nil {
			return lasting{err}
		}
		if !resumed {
			return lasting{mismatch{url: u.Redacted(), want: t.partial.checksum.text, got: got, n: n}}
		}
	}
}

// mismatch says that a server has other content than the manifest wants.
type mismatch struct {
	url, want, got string
	n              int64
}

// Error names the URL and both checksums.
func (e mismatch) Error() string {
	return fmt.Sprintf("checksum mismatch for %s: expected %s, got %s, %d bytes; nothing was stored", e.url, e.want, e.got, e.n)
}

// count tells the progress how much of the item there is.
func (t *transfer) count() {
	t.progress.bytes.Add(t.partial.n - t.counted)
	t.counted = t.partial.n
}

// fetch appends what the server has to the partial file, up to its end. resumed
// is set to false if it began at the first byte.
func (t *transfer) fetch(ctx context.Context, u *url.URL, resumed *bool) error {
	if u.Scheme == "file" {
		*resumed = false
		return t.copyFile(ctx, u)
	}
	if t.item.Size > 0 && t.partial.n == t.item.Size {
		return nil // all is there, only the checksum was not looked at
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(t.stall, func() {
		cancel(fmt.Errorf("the server sent nothing for %v", t.stall))
	})
	defer watchdog.Stop()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return lasting{err}
	}
	req.Header.Set("User-Agent", "ossify")
	if t.partial.n > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", t.partial.n))
		if etag := t.partial.etag(u.Redacted()); etag != "" {
			req.Header.Set("If-Range", etag)
		}
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return serverFault{cause(ctx, err)}
	}
	defer resp.Body.Close()
	again, err := t.begin(resp)
	if err != nil || again {
		if again {
			return t.fetch(ctx, u, resumed) // without a range, as nothing is left
		}
		return err
	}
	if resp.StatusCode != http.StatusPartialContent {
		*resumed = false
	}
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		*resumed = true
		return nil // there may be nothing after what we have
	}
	t.partial.setETag(u.Redacted(), resp.Header.Get("ETag"))
	if resp.ContentLength >= 0 {
		t.progress.size(t.partial.checksum.text, t.partial.n+resp.ContentLength)
	}
	return t.drain(ctx, resp.Body, func() { watchdog.Reset(t.stall) })
}

// begin looks at the status and makes the partial file fit the answer. again is
// set if the answer is of no use and the partial file was emptied.
func (t *transfer) begin(resp *http.Response) (again bool, err error) {
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		if t.partial.n > 0 {
			if err := t.partial.restart(); err != nil {
				return false, lasting{err}
			}
		}
	case code == http.StatusPartialContent && t.partial.n > 0:
		if start, ok := rangeStart(resp.Header.Get("Content-Range")); !ok || start != t.partial.n {
			if err := t.partial.restart(); err != nil {
				return false, lasting{err}
			}
			return true, nil
		}
	case code == http.StatusRequestedRangeNotSatisfiable && t.partial.n > 0:
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout:
		return false, serverFault{fmt.Errorf("HTTP status %s; try again later, or another mirror with --mirror", status(resp))}
	case code == http.StatusNotFound || code == http.StatusGone:
		return false, lasting{fmt.Errorf("HTTP status %s; the file is no longer there: make the manifest anew, or try another mirror with --mirror", status(resp))}
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return false, lasting{fmt.Errorf("HTTP status %s; the server wants other credentials, or wants nobody to have the file", status(resp))}
	default:
		return false, lasting{fmt.Errorf("HTTP status %s, which is no answer to a download", status(resp))}
	}
	if resp.StatusCode != http.StatusRequestedRangeNotSatisfiable && resp.ContentLength > t.limit()-t.partial.n {
		return false, t.tooLarge()
	}
	return false, nil
}

func status(resp *http.Response) string {
	return strings.TrimSpace(strconv.Itoa(resp.StatusCode) + " " + http.StatusText(resp.StatusCode))
}

// rangeStart returns N of "bytes N-M/SIZE" (RFC 9110, 14.4).
func rangeStart(header string) (int64, bool) {
	rest, ok := strings.CutPrefix(header, "bytes ")
	if !ok {
		return 0, false
	}
	text, _, ok := strings.Cut(rest, "-")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n >= 0
}

// drain appends r to the partial file; got is called whenever something came.
func (t *transfer) drain(ctx context.Context, r io.Reader, got func()) error {
	buf := make([]byte, 128<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			got()
			if t.partial.n+int64(n) > t.limit() {
				return t.tooLarge()
			}
			if _, err := t.partial.Write(buf[:n]); err != nil {
				return err
			}
			t.count()
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return cause(ctx, err)
		}
	}
}

// maxUnstated is how many bytes a file may have whose size nobody stated: no
// server can fill the disk without an end.
const maxUnstated = 64 << 30

// limit is how many bytes the file may have.
func (t *transfer) limit() int64 {
	if t.item.Size > 0 {
		return t.item.Size
	}
	return maxUnstated
}

func (t *transfer) tooLarge() error {
	err := fmt.Errorf("the file is larger than the %d bytes that the manifest says; nothing was stored", t.item.Size)
	if t.item.Size == 0 {
		err = fmt.Errorf("the file is larger than %d bytes; if it has to be, state its \"size\" in the manifest", int64(maxUnstated))
	}
	return lasting{errors.Join(err, t.partial.restart())}
}

// copyFile takes a file of this machine, from its start.
func (t *transfer) copyFile(ctx context.Context, u *url.URL) error {
	if err := t.partial.restart(); err != nil {
		return lasting{err}
	}
	// Not blocking, or a FIFO would keep us here.
	f, err := os.OpenFile(u.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return lasting{errors.Unwrap(err)}
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return lasting{err}
	}
	if !st.Mode().IsRegular() {
		return lasting{errors.New("is not a regular file")}
	}
	t.progress.size(t.partial.checksum.text, st.Size())
	if err := t.drain(ctx, f, func() {}); err != nil {
		return lasting{err}
	}
	return nil
}

// cause is why a request was cancelled, if it was.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// tryAnother is the advice where a server does not answer.
const tryAnother = `is the server up? give the manifest's item more "mirrors", or compose again with --mirror`

// explain says what to do about common errors of the network.
func explain(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // it repeats the URL, which the caller names
	}
	var dns *net.DNSError
	var unknown x509.UnknownAuthorityError
	var netErr net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("connection refused; " + tryAnother)
	case errors.As(err, &dns):
		return fmt.Errorf("%w; is the name right and the network up?", dns)
	case errors.As(err, &unknown):
		return fmt.Errorf("%w; install the authority's certificate, or set \"insecure\" for this item", err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the connection ended too early; try again, the download goes on where it ended")
	case errors.As(err, &netErr) && netErr.Timeout():
		return fmt.Errorf("%w; "+tryAnother, err)
	}
	return err
}
