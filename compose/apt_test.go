package compose

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// fakeApt answers commands by their first words.
func fakeApt(t *testing.T, answers map[string]string) (*apt, *[]Command) {
	t.Helper()
	var ran []Command
	c := &composer{distro: distros[0], opts: Options{Exec: func(_ context.Context, cmd Command) error {
		ran = append(ran, cmd)
		line := strings.Join(cmd.Argv, " ")
		for prefix, answer := range answers {
			if strings.HasPrefix(line, prefix) {
				if reason, bad := strings.CutPrefix(answer, "E: "); bad {
					fmt.Fprintln(cmd.Stderr, "E: "+reason)
					return errors.New("exit status 100")
				}
				fmt.Fprint(cmd.Stdout, answer)
				return nil
			}
		}
		t.Errorf("unexpected command %q", line)
		return nil
	}}}
	return &apt{c: c}, &ran
}

func TestHostSettings(t *testing.T) {
	a, _ := fakeApt(t, map[string]string{"apt-config dump": `Dir /
Acquire::http 
Acquire::http::Proxy http://proxy.invalid:3128/
acquire::HTTPS::Verify-Peer false
Acquire::Check-Valid-Until false
Acquire::httpx::Proxy no
Acquire::AllowInsecureRepositories 1
DPkg::Post-Invoke:: rm -f x
`})
	got, err := a.hostSettings(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := []setting{
		{"Acquire::http::Proxy", "http://proxy.invalid:3128/"},
		{"acquire::HTTPS::Verify-Peer", "false"},
		{"Acquire::Check-Valid-Until", "false"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	config := aptConfig("/state", "amd64", append(got, setting{"acquire::retries", "7"}))
	if !strings.Contains(config, `Acquire::http::Proxy "http://proxy.invalid:3128/";`) || strings.Contains(config, "Acquire::Retries") {
		t.Errorf("the host's settings are not obeyed:\n%s", config)
	}
}

func TestHostSites(t *testing.T) {
	a, ran := fakeApt(t, map[string]string{"apt-get indextargets": "http://m.invalid/debian|bookworm|$(CODENAME)|main\n"})
	sites, err := a.sites(context.Background())
	if err != nil || len(sites) != 1 || len(*ran) != 1 {
		t.Errorf("got %v, %v after %d commands", sites, err, len(*ran))
	}
	a, ran = fakeApt(t, map[string]string{"apt-get indextargets": "http://m.invalid/debian|trixie|trixie|main\n"})
	_, err = a.sites(context.Background())
	if err == nil || !strings.Contains(err.Error(), "--mirror URL") {
		t.Errorf("got %v", err)
	}
	// The second time with what the lists say of the releases' names.
	if len(*ran) != 2 || strings.Contains(strings.Join((*ran)[1].Argv, " "), "--no-release-info") {
		t.Errorf("ran %v", *ran)
	}
	a, _ = fakeApt(t, map[string]string{"apt-get indextargets": "E: Malformed entry 1 in list file\n"})
	if _, err = a.sites(context.Background()); err == nil || !strings.Contains(err.Error(), "Malformed entry 1") {
		t.Errorf("got %v", err)
	}
}

func TestSnapshotSites(t *testing.T) {
	c := &composer{distro: distros[0], opts: Options{Snapshot: "https://s.invalid/archive/debian/20240302T000000Z/"}}
	sites, err := (&apt{c: c}).sites(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := "deb [arch=amd64 signed-by=/k.gpg check-valid-until=no] https://s.invalid/archive/debian/20240302T000000Z bookworm main\n" +
		"deb [arch=amd64 signed-by=/k.gpg check-valid-until=no] https://s.invalid/archive/debian/20240302T000000Z bookworm-updates main\n" +
		"deb [arch=amd64 signed-by=/k.gpg check-valid-until=no] https://s.invalid/archive/debian-security/20240302T000000Z bookworm-security main\n"
	if got := sourcesList(sites, "amd64", "/k.gpg"); got != want {
		t.Errorf("got %s", got)
	}
}
