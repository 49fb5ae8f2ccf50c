package compose

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/ossify/ossify/pattern"
)

// Size is a number of bytes. In TOML it is an integer or a string with a unit,
// such as "4 GiB" or "500 MB".
type Size int64

var (
	sizePattern = pattern.New(`^([0-9]+(?:\.[0-9]+)?) *([A-Za-z]*)$`)
	sizeUnits   = map[string]int64{
		"": 1, "B": 1, "bytes": 1,
		"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
		"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	}
)

// UnmarshalTOML reads a size.
func (s *Size) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case int64:
		if v < 0 {
			return fmt.Errorf("size %d is negative", v)
		}
		*s = Size(v)
		return nil
	case string:
		m := sizePattern().FindStringSubmatch(v)
		if m == nil {
			break
		}
		unit, ok := sizeUnits[m[2]]
		if !ok {
			return fmt.Errorf("size %q has the unknown unit %q: want B, kB, MB, GB, TB, KiB, MiB, GiB or TiB", v, m[2])
		}
		number, ok := new(big.Rat).SetString(m[1])
		if !ok {
			break
		}
		bytes := number.Mul(number, new(big.Rat).SetInt64(unit))
		if !bytes.IsInt() || !bytes.Num().IsInt64() {
			return fmt.Errorf("size %q is not a whole number of bytes below 8 EiB", v)
		}
		*s = Size(bytes.Num().Int64())
		return nil
	}
	return fmt.Errorf("%v is not a size: want bytes or a string such as \"4 GiB\"", v)
}

// Mode is permission bits as an octal string such as "0644", or empty.
type Mode string

var modePattern = pattern.New(`^[0-7]{3,4}$`)

// UnmarshalTOML reads a mode.
func (m *Mode) UnmarshalTOML(v any) error {
	s, ok := v.(string)
	if !ok || !modePattern().MatchString(s) {
		return fmt.Errorf("%v is not a mode: want an octal string such as \"0644\"", v)
	}
	*m = Mode("0"[:4-len(s)] + s)
	return nil
}

// number returns the permission bits, or otherwise for an empty mode.
func (m Mode) number(otherwise int) int {
	n, err := strconv.ParseInt(string(m), 8, 32)
	if err != nil {
		return otherwise
	}
	return int(n)
}

// Owner is a user or group by name or number; empty is root.
type Owner string

var accountName = pattern.New(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`)

// UnmarshalTOML reads an owner.
func (o *Owner) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case int64:
		if v < 0 || v > maxID {
			return fmt.Errorf("%d is not an id: want 0 to %d", v, maxID)
		}
		*o = Owner(strconv.FormatInt(v, 10))
	case string:
		if !accountName().MatchString(v) {
			return fmt.Errorf("%q is not the name of a user or group; write a number without quotes", v)
		}
		*o = Owner(v)
	default:
		return errors.New("want a name or a number")
	}
	return nil
}

// root tells whether nothing has to be changed for the owner.
func (o Owner) root() bool { return o == "" || o == "root" || o == "0" }

// maxID is the largest user or group id; the one after it means "no id".
const maxID = 1<<32 - 2

// cryptPattern is the form of crypt(5) hashes: "$id$...", or a lock.
var cryptPattern = pattern.New(`^[!*]?(\$[0-9a-z]+\$[!-9;-~]+)?$`)

func checkPassword(p string) error {
	if p != "" && cryptPattern().MatchString(p) {
		return nil
	}
	if p == "" {
		return errors.New("the password is empty, which would let anyone in: leave the key out for a locked account")
	}
	return errors.New("this is no password hash as of crypt(3), and plain text is refused: put in what \"mkpasswd -m yescrypt\" or \"openssl passwd -6\" prints")
}

func checkKey(key string) error {
	switch {
	case strings.Contains(key, "PRIVATE KEY"):
		return errors.New("this is a private key: put in the public one, from the file that ends in .pub")
	case strings.ContainsAny(strings.TrimRight(key, "\n"), "\n\r\x00"):
		return errors.New("a key is a single line")
	case !strings.Contains(key, " AAAA"):
		return errors.New("this is no ssh public key, such as \"ssh-ed25519 AAAA... me@home\"")
	}
	return nil
}
