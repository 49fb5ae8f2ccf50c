package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/ossify/ossify/monitor"
	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
)

const (
	originSource   = "org.osbuild.source"
	originPipeline = "org.osbuild.pipeline"
)

// mapped is what the inputs of a stage were made into.
type mapped struct {
	// dir is shown to the stage as /run/osbuild/inputs.
	dir  string
	args map[string]json.RawMessage
	// writable are mounts below dir that are the stage's own.
	writable []string
	// records are the side records of inputs that are trees, by input.
	records map[string][]byte
}

// mapInputs runs the stage's input services. The returned function ends them
// and takes their mounts away.
func (b *builder) mapInputs(ctx context.Context, s *Stage, trees map[string]*store.Layer) (_ *mapped, release func() error, err error) {
	m := &mapped{args: map[string]json.RawMessage{}, records: map[string][]byte{}}
	if len(s.Inputs) == 0 {
		return m, func() error { return nil }, nil
	}
	scratch, remove, err := b.Store.Scratch("inputs-")
	if err != nil {
		return nil, nil, err
	}
	m.dir = filepath.Join(scratch, "inputs")
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	var closers []func() error
	release = func() error {
		var err error
		for i := len(closers) - 1; i >= 0; i-- {
			err = joinRelease(ctx, err, closers[i]())
		}
		err = errors.Join(err, overlay.UnmountBelow(scratch))
		b.cleanup.Go(remove)
		return err
	}
	server, err := sandbox.ServeStore(filepath.Join(scratch, "store"), &storeAPI{b: b, trees: trees, dir: m.dir})
	if err != nil {
		return nil, nil, errors.Join(err, release())
	}
	closers = append(closers, func() error { server.Close(); return nil })
	for _, in := range s.Inputs {
		err := func() error {
			service, err := sandbox.StartService(ctx, in.Module.Path, in.Module.Libdir, scratch, "input/"+in.Name)
			if err != nil {
				return err
			}
			closers = append(closers, func() error { return inInput(in, service.Close()) })
			if m.records[in.Name], err = b.inputRecord(in, trees); err != nil {
				return err
			}
			return m.mapInput(service, in)
		}()
		if err != nil {
			return nil, nil, joinRelease(ctx, inInput(in, err), release())
		}
	}
	return m, release, nil
}

// inputRecord returns the side record of an input that is one tree, or nil.
func (b *builder) inputRecord(in *Input, trees map[string]*store.Layer) ([]byte, error) {
	if in.Origin != originPipeline || len(in.Refs) != 1 {
		return nil, nil
	}
	for id := range in.Refs {
		if layer := trees[id]; layer != nil {
			return b.Store.Record(layer)
		}
	}
	return nil, nil
}

// joinRelease adds what a release reports to err, unless both tell that ctx is done.
func joinRelease(ctx context.Context, err, released error) error {
	if err != nil && ctx.Err() != nil && errors.Is(released, context.Cause(ctx)) {
		return err
	}
	return errors.Join(err, released)
}

// inInput says where an error comes from.
func inInput(in *Input, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("input %q: %w", in.Name, err)
}

// mapInput lets the service provide the input and notes what it replies.
func (m *mapped) mapInput(service *sandbox.Service, in *Input) error {
	if in.Name != filepath.Base(in.Name) || in.Name == "." || in.Name == ".." {
		return errors.New("the name of an input must be a plain file name")
	}
	target := filepath.Join(m.dir, in.Name)
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	options := in.Options
	if len(options) == 0 {
		options = json.RawMessage("{}")
	}
	call := map[string]any{
		"origin": in.Origin, "refs": in.Refs, "target": target, "options": options,
		"api": map[string]string{"store": "store"}, // relative to the service's directory
	}
	var reply map[string]json.RawMessage
	if err := service.Call("map", call, &reply, nil); err != nil {
		return err
	}
	path, err := inputPath(reply["path"], target)
	if err != nil {
		return fmt.Errorf("%s: %w; this is a fault of the module %s", in.Module.Name, err, in.Module.Path)
	}
	if reply["path"], err = json.Marshal(filepath.Join("/run/osbuild/inputs", in.Name, path)); err != nil {
		return err
	}
	if raw, ok := reply["writable"]; ok {
		var paths []string
		if err := json.Unmarshal(raw, &paths); err != nil {
			return fmt.Errorf("the input returned no list of what is writable: %w", err)
		}
		for _, path := range paths {
			m.writable = append(m.writable, filepath.Join(in.Name, path))
		}
		delete(reply, "writable") // osbuild's stages do not know it
	}
	if m.records[in.Name] != nil {
		if reply["record"], err = json.Marshal(filepath.Join(sandbox.InputRecords, in.Name)); err != nil {
			return err
		}
	} else {
		delete(m.records, in.Name)
	}
	m.args[in.Name], err = json.Marshal(reply)
	return err
}

// inputPath returns the path that an input's reply names, relative to its
// target. It must be there without any link that leads out of the target.
func inputPath(raw json.RawMessage, target string) (string, error) {
	var path string
	if len(raw) == 0 || json.Unmarshal(raw, &path) != nil || path == "" {
		return "", errors.New("the reply has no path, or one that is no string")
	}
	rel, err := filepath.Rel(target, path)
	if err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("the reply's path, %.500q, is not below its target, %s", path, target)
	}
	if st, err := os.Lstat(target); err != nil || !st.IsDir() {
		return "", errors.New("it has removed its target, or put something else in its place")
	}
	inside, err := securejoin.SecureJoin(target, rel)
	if err == nil {
		_, err = os.Lstat(inside)
	}
	if err != nil {
		return "", fmt.Errorf("the reply's path, %.500q, is not there", path)
	}
	return rel, nil
}

// storeAPI answers the questions of input services.
type storeAPI struct {
	b     *builder
	trees map[string]*store.Layer
	// dir is the only place where trees are mounted.
	dir string
}

// Source returns the folder of a content type.
func (a *storeAPI) Source(name string) (string, error) {
	if name != filepath.Base(name) || name == ".." {
		return "", fmt.Errorf("invalid content type %q", name)
	}
	return filepath.Join(a.b.Store.Sources(), name), nil
}

// ReadTree mounts a tree somewhere and returns the place, "" if there is none.
func (a *storeAPI) ReadTree(id string) (string, error) {
	layer := a.trees[id]
	if layer == nil {
		return "", nil
	}
	return a.b.mountTree(layer)
}

// ReadTreeAt mounts a path of a tree at target.
func (a *storeAPI) ReadTreeAt(id, target, subtree string) (string, error) {
	rel, err := filepath.Rel(a.dir, target)
	if err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("%s is not below the stage's inputs", target)
	}
	// No link on the way leads out of there, nor does ".." after one.
	place := filepath.Join(a.dir, rel)
	if inside, err := securejoin.SecureJoin(a.dir, rel); err != nil || inside != place {
		return "", fmt.Errorf("there is a symbolic link on the way to %s", target)
	}
	layer := a.trees[id]
	if layer == nil {
		return "", nil
	}
	if filepath.Clean("/"+subtree) == "/" {
		stack, err := a.b.Store.ReadOnly(layer)
		if err != nil {
			return "", err
		}
		_, err = stack.Mount(place)
		return target, err
	}
	tree, err := a.b.mountTree(layer)
	if err != nil {
		return "", err
	}
	return target, sandbox.BindInside(tree, subtree, place)
}

// Tempdir makes a folder that lives as long as the build.
func (a *storeAPI) Tempdir() (string, error) {
	dir, _, err := a.b.Store.Scratch("input-")
	return dir, err
}

// sourceRun is a source whose content this build needs.
type sourceRun struct {
	source *Source
	result *SourceResult
	items  map[string]json.RawMessage
	done   chan struct{}
}

// planSources notes which items of which sources the stage needs.
func (b *builder) planSources(s *Stage) error {
	for _, in := range s.Inputs {
		if in.Origin != originSource {
			continue
		}
		for ref := range in.Refs {
			source := b.sourceOf(ref)
			if source == nil {
				err := b.refuse(fmt.Errorf("pipeline %q: stage %d (%s): input %q refers to %s, which is in none of the manifest's sources",
					s.Pipeline.Name, s.Index, s.Name, in.Name, ref))
				if err != nil {
					return err
				}
				continue
			}
			b.planSource(source).items[ref] = source.Items[ref]
		}
	}
	return nil
}

// planSource returns the run of a source, which it begins if need be.
func (b *builder) planSource(source *Source) *sourceRun {
	r := b.sources[source]
	if r == nil {
		r = &sourceRun{source: source, result: &SourceResult{Source: source}, items: map[string]json.RawMessage{}, done: make(chan struct{})}
		b.sources[source] = r
	}
	return r
}

func (b *builder) sourceOf(ref string) *Source {
	for _, s := range b.manifest.Sources {
		if _, ok := s.Items[ref]; ok {
			return s
		}
	}
	return nil
}

// waitSources returns when the content that the stage refers to is in the store.
func (b *builder) waitSources(ctx context.Context, s *Stage) error {
	for _, in := range s.Inputs {
		if in.Origin != originSource {
			continue
		}
		for ref := range in.Refs {
			select {
			case <-b.sources[b.sourceOf(ref)].done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// downloaded returns when the oldest file came that sources have for the stage; now
// if there is none.
func (b *builder) downloaded(s *Stage) (time.Time, error) {
	oldest := time.Now()
	for _, in := range s.Inputs {
		if in.Origin != originSource {
			continue
		}
		for ref := range in.Refs {
			found, err := b.stored(ref)
			if err != nil {
				return oldest, err
			}
			for _, st := range found {
				if st.ModTime().Before(oldest) {
					oldest = st.ModTime()
				}
			}
		}
	}
	return oldest, nil
}

// stored returns what sources have put into the store under that checksum. Each has the
// folder of its content type, which it alone knows.
func (b *builder) stored(ref string) (found []os.FileInfo, err error) {
	folders, err := os.ReadDir(b.Store.Sources())
	if err != nil {
		return nil, fmt.Errorf("look up downloads: %w", err)
	}
	for _, folder := range folders {
		if st, err := os.Stat(filepath.Join(b.Store.Sources(), folder.Name(), ref)); err == nil {
			found = append(found, st)
		}
	}
	return found, nil
}

// download fetches the items of a source that are not in the store.
func (b *builder) download(ctx context.Context, r *sourceRun) (err error) {
	start := time.Now()
	name := r.source.Name
	r.result.Items = len(r.items)
	b.Monitor.BeginDownload(name, len(r.items), itemsSize(r.items))
	defer func() {
		r.result.Err, r.result.Duration = err, time.Since(start)
		b.Monitor.EndDownload(name, monitor.DownloadResult{Cached: r.result.Cached, Err: err, Results: r.result.Results, Duration: r.result.Duration})
		if err == nil {
			close(r.done)
		}
	}()
	damaged, err := b.Store.DropDamaged(sortedKeys(r.items))
	if err != nil {
		return fmt.Errorf("source %s: %w", name, err)
	}
	for _, checksum := range damaged {
		b.Monitor.Log("the download " + checksum + " in the store has changed: it is fetched again")
	}
	confinement, remove, err := b.confinement(r)
	if err != nil {
		return fmt.Errorf("source %s: %w", name, err)
	}
	defer b.cleanup.Go(remove)
	service, err := sandbox.StartConfined(ctx, r.source.Module.Path, r.source.Module.Libdir, b.Store.Sources(), name, confinement)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	options := r.source.Options
	if len(options) == 0 {
		options = json.RawMessage("{}")
	}
	var reply struct {
		Success bool              `json:"success"`
		Results []json.RawMessage `json:"results"`
	}
	args := map[string]any{
		"items": r.items, "options": options, "cache": b.Store.Sources(), "output": nil, "checksums": []string{},
	}
	if secrets := b.Secrets[name]; len(secrets) > 0 {
		args["secrets"] = secrets
	}
	err = service.Call("download", args, &reply, func(signal json.RawMessage) {
		var p struct {
			Done       int64 `json:"done"`
			Total      int64 `json:"total"`
			ItemsDone  int   `json:"items-done"`
			ItemsTotal int   `json:"items-total"`
		}
		if json.Unmarshal(signal, &p) == nil {
			b.Monitor.Download(name, monitor.DownloadProgress{ItemsDone: p.ItemsDone, Items: p.ItemsTotal, Done: p.Done, Total: p.Total})
		}
	})
	if closeErr := service.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("source: %w", err)
	}
	failed, err := r.result.take(reply.Results)
	if err != nil {
		return fmt.Errorf("source %s: %w; this is a fault of the module %s", name, err, r.source.Module.Path)
	}
	for ref := range r.items {
		b.Store.MarkSourceUsed(ref)
	}
	if !reply.Success {
		if len(failed) == 0 {
			failed = []string{"the source says that it failed, but not why"}
		}
		more := ""
		if len(failed) > 1 {
			more = fmt.Sprintf(" (and %d more)", len(failed)-1)
		}
		return fmt.Errorf("source %s: %.4000s%s", name, failed[0], more)
	}
	return nil
}

// take takes in what a source says of its items and returns why some failed.
func (r *SourceResult) take(results []json.RawMessage) (failed []string, err error) {
	cached := 0
	for i, raw := range results {
		var item struct {
			Success  bool   `json:"success"`
			Error    string `json:"error"`
			Metadata struct {
				Cached bool `json:"cached"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(raw, &item); err != nil {
			return nil, fmt.Errorf("its result %d has not the form that a result has: %.200s", i, raw)
		}
		if item.Metadata.Cached {
			cached++
		}
		if !item.Success {
			failed = append(failed, item.Error)
		}
	}
	r.Results, r.Cached = results, cached
	return failed, nil
}

// itemsSize adds up the sizes that the items state, in bytes; 0 if one does not.
func itemsSize(items map[string]json.RawMessage) int64 {
	var total int64
	for _, raw := range items {
		size := itemSize(raw)
		if size == 0 {
			return 0
		}
		total += size
	}
	return total
}

// itemSize is the size that an item states, in bytes; 0 if it does not.
func itemSize(raw json.RawMessage) int64 {
	var item struct {
		Size int64 `json:"size"`
	}
	if json.Unmarshal(raw, &item) != nil {
		return 0
	}
	return item.Size
}
