package sources

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"
)

// Names of osbuild's (sources/org.osbuild.curl).
const (
	mtlsSecrets = "org.osbuild.mtls"
	rhsmSecrets = "org.osbuild.rhsm"
	envProxy    = "OSBUILD_SOURCES_CURL_PROXY"
	envCert     = "OSBUILD_SOURCES_CURL_SSL_CLIENT_CERT"
	envKey      = "OSBUILD_SOURCES_CURL_SSL_CLIENT_KEY"
	envCA       = "OSBUILD_SOURCES_CURL_SSL_CA_CERT"
)

// connectTimeout is for each step until a connection can be used.
const connectTimeout = 15 * time.Second

// clients makes HTTP clients, one for each kind of TLS, and keeps them.
type clients struct {
	// root is the directory that the host's subscriptions are below, "" for /.
	root string
	// given are files that the user named for this run, or nil.
	given *tlsFiles

	mu            sync.Mutex
	made          map[clientKind]*http.Client
	subscriptions *subscriptions
}

type clientKind struct {
	insecure bool
	// secrets names who provides files, or is "".
	secrets string
	files   tlsFiles
}

func (c *clients) get(item *curlItem) (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kind := clientKind{insecure: item.Insecure}
	if item.Secrets != nil {
		kind.secrets = item.Secrets.Name
		var err error
		if kind.files, err = c.secrets(kind.secrets, item.URL); err != nil {
			return nil, fmt.Errorf("secrets of %s: %w", kind.secrets, err)
		}
	}
	if client := c.made[kind]; client != nil {
		return client, nil
	}
	client, err := newClient(kind)
	if err != nil {
		return nil, err
	}
	if c.made == nil {
		c.made = map[clientKind]*http.Client{}
	}
	c.made[kind] = client
	return client, nil
}

// givenFiles reads what --secrets has for the source, with the words that osbuild
// had for it when it had that option.
func givenFiles(secrets json.RawMessage) (*tlsFiles, error) {
	if len(secrets) == 0 || string(secrets) == "null" {
		return nil, nil
	}
	var given struct {
		Cert string `json:"sslclientcert"`
		Key  string `json:"sslclientkey"`
		CA   string `json:"sslcacert"`
	}
	d := json.NewDecoder(bytes.NewReader(secrets))
	d.DisallowUnknownFields()
	if d.Decode(&given) != nil || given.Cert == "" || given.Key == "" {
		// The reason could quote a secret.
		return nil, errors.New("--secrets: of this source it has the files sslclientcert and sslclientkey, and may have sslcacert")
	}
	return &tlsFiles{cert: given.Cert, key: given.Key, ca: given.CA}, nil
}

// secrets returns the files that are provided for the URL.
func (c *clients) secrets(name, url string) (tlsFiles, error) {
	switch name {
	case mtlsSecrets:
		if c.given != nil {
			return *c.given, nil
		}
		files := tlsFiles{cert: os.Getenv(envCert), key: os.Getenv(envKey), ca: os.Getenv(envCA)}
		if files.cert == "" || files.key == "" {
			return files, fmt.Errorf("set %s and %s to the files of the client's certificate and key, or name them in a file for --secrets", envCert, envKey)
		}
		return files, nil
	case rhsmSecrets:
		if c.subscriptions == nil {
			var err error
			if c.subscriptions, err = readSubscriptions(c.root); err != nil {
				return tlsFiles{}, err
			}
		}
		return c.subscriptions.files(url)
	}
	return tlsFiles{}, fmt.Errorf("nobody is known who provides them: use %s or %s", mtlsSecrets, rhsmSecrets)
}

func (c *clients) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, client := range c.made {
		client.CloseIdleConnections()
	}
}

func newClient(kind clientKind) (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: kind.insecure}
	if kind.secrets != "" {
		if err := kind.files.addTo(config); err != nil {
			return nil, fmt.Errorf("secrets of %s: %w", kind.secrets, err)
		}
	}
	proxy := http.ProxyFromEnvironment
	if text := os.Getenv(envProxy); text != "" {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("%s is no URL of a proxy, such as http://HOST:PORT", envProxy)
		}
		proxy = http.ProxyURL(u)
	}
	transport := &http.Transport{
		Proxy:               proxy,
		DialContext:         (&net.Dialer{Timeout: connectTimeout, KeepAlive: connectTimeout}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: connectTimeout,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: parallel,
		IdleConnTimeout:     connectTimeout,
		// Checksums and ranges are of the bytes as the server has them.
		DisableCompression: true,
	}
	client := &http.Client{CheckRedirect: checkRedirect, Transport: transport}
	if kind.secrets != "" {
		others := transport.Clone()
		others.TLSClientConfig.Certificates = nil
		client.Transport = &withCertificate{named: transport, others: others}
	}
	return client, nil
}

// withCertificate shows the client's certificate to servers that the manifest
// names, and to none that they redirect to.
type withCertificate struct{ named, others *http.Transport }

// RoundTrip does one request.
func (c *withCertificate) RoundTrip(req *http.Request) (*http.Response, error) {
	first := req
	for first.Response != nil && first.Response.Request != nil {
		first = first.Response.Request // what led here
	}
	if first.URL.Scheme == req.URL.Scheme && first.URL.Host == req.URL.Host {
		return c.named.RoundTrip(req)
	}
	return c.others.RoundTrip(req)
}

// CloseIdleConnections closes connections that are kept for the next request.
func (c *withCertificate) CloseIdleConnections() {
	c.named.CloseIdleConnections()
	c.others.CloseIdleConnections()
}

// addTo loads the files.
func (f tlsFiles) addTo(config *tls.Config) error {
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w; let your user read the file, or run as root", err)
	}
	if err != nil {
		return fmt.Errorf("load the client's certificate %s and its key: %w", f.cert, err)
	}
	config.Certificates = []tls.Certificate{pair}
	if f.ca == "" {
		return nil
	}
	data, err := os.ReadFile(f.ca)
	if err != nil {
		return fmt.Errorf("load the authority's certificate: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(data) {
		return fmt.Errorf("%s, for the authority's certificate, holds no certificate", f.ca)
	}
	return nil
}

// checkRedirect keeps what was asked for over a safe connection on one.
// Passwords stay with the URL that they stand in: net/http takes them from each
// URL anew.
func checkRedirect(req *http.Request, via []*http.Request) error {
	from, to := via[len(via)-1].URL.Scheme, req.URL.Scheme
	if from != to && (from != "http" || to != "https") {
		return lasting{fmt.Errorf("redirect from %s to %s is refused", from, req.URL.Redacted())}
	}
	if len(via) >= 10 {
		return lasting{errors.New("more than 10 redirects")}
	}
	// The URL that leads elsewhere may carry a token in its query.
	req.Header.Del("Referer")
	return nil
}
