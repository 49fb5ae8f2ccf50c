package stages

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ossify/ossify/module"
)

const usersStage = "org.osbuild.users"

type usersOptions struct {
	Users ordered[userOptions] `json:"users"`
}

type userOptions struct {
	UID         *int64   `json:"uid"`
	GID         *int64   `json:"gid"`
	Groups      []string `json:"groups"`
	Description *string  `json:"description"`
	// Home set to "" asks for no home directory.
	Home  *string `json:"home"`
	Shell string  `json:"shell"`
	// Password is what crypt(3) returned.
	Password *string  `json:"password"`
	Key      string   `json:"key"`
	Keys     []string `json:"keys"`
	// ExpireDate is in days since 1970.
	ExpireDate         *int64 `json:"expiredate"`
	ForcePasswordReset bool   `json:"force_password_reset"`
}

// users adds or changes users, in the manifest's order, with the tree's own
// shadow-utils. With a source-epoch the date of a password is that day's:
// shadow-utils honours SOURCE_DATE_EPOCH.
func users(ctx context.Context, args *module.Args, options usersOptions) error {
	if options.Users == nil {
		return errors.New(`options lack "users"`)
	}
	for _, user := range options.Users {
		if err := setUser(ctx, args, user.name, user.value); err != nil {
			return fmt.Errorf("user %s: %w", user.name, err)
		}
	}
	return nil
}

func setUser(ctx context.Context, args *module.Args, name string, user userOptions) error {
	entry, err := lookUser(args, name)
	if err != nil {
		return err
	}
	if entry == nil {
		err = account(ctx, args, "useradd", append(addArguments(user), name)...)
	} else {
		err = changeUser(ctx, args, name, user, entry)
	}
	if err != nil {
		return err
	}
	if user.ForcePasswordReset {
		if err := account(ctx, args, "passwd", "--expire", name); err != nil {
			return err
		}
	}
	keys := user.Keys
	if user.Key != "" {
		keys = append(keys, user.Key)
	}
	if len(keys) > 0 {
		return addKeys(args, name, keys)
	}
	return nil
}

func account(ctx context.Context, args *module.Args, tool string, argv ...string) error {
	cmd, err := accountCommand(ctx, args, usersStage, tool, argv...)
	if err != nil {
		return err
	}
	return run(cmd)
}

func addArguments(user userOptions) []string {
	var argv []string
	if user.UID != nil {
		argv = append(argv, "--uid", strconv.FormatInt(*user.UID, 10), "-o")
	}
	if user.Home != nil && *user.Home == "" {
		argv = append(argv, "--no-create-home")
	}
	argv = append(argv, commonArguments(user, "--home-dir")...)
	if user.Home != nil && *user.Home != "" {
		argv = append(argv, "--create-home")
	}
	return argv
}

// commonArguments are those that useradd and usermod share but for the name of
// the home directory's flag.
func commonArguments(user userOptions, homeFlag string) []string {
	var argv []string
	if user.GID != nil {
		argv = append(argv, "--gid", strconv.FormatInt(*user.GID, 10))
	}
	if len(user.Groups) > 0 {
		argv = append(argv, "--groups", strings.Join(user.Groups, ","))
	}
	if user.Description != nil {
		argv = append(argv, "--comment", *user.Description)
	}
	if user.Home != nil && *user.Home != "" {
		argv = append(argv, homeFlag, *user.Home)
	}
	if user.Shell != "" {
		argv = append(argv, "--shell", user.Shell)
	}
	if user.Password != nil {
		argv = append(argv, "--password", *user.Password)
	}
	if user.ExpireDate != nil {
		argv = append(argv, "--expiredate", strconv.FormatInt(*user.ExpireDate, 10))
	}
	return argv
}

// changeUser changes an existing user and makes the home directory if it is
// missing, which usermod does not.
func changeUser(ctx context.Context, args *module.Args, name string, user userOptions, entry *passwdEntry) error {
	if user.UID != nil && entry.uid != int(*user.UID) {
		return fmt.Errorf("cannot change the uid of an existing user from %d to %d", entry.uid, *user.UID)
	}
	if argv := commonArguments(user, "--home"); len(argv) > 0 {
		if err := account(ctx, args, "usermod", append(argv, name)...); err != nil {
			return err
		}
	}
	entry, err := lookUser(args, name)
	if err != nil {
		return err
	}
	if entry == nil || entry.home == "" {
		return nil
	}
	home, err := treeTarget(args, entry.home)
	if err != nil {
		return err
	}
	if _, err := os.Stat(home); err == nil {
		return nil
	}
	return makeHome(ctx, args, name)
}

// makeHome runs PAM's helper, which copies /etc/skel.
func makeHome(ctx context.Context, args *module.Args, name string) error {
	return runMounted(ctx, args, usersStage, "mkhomedir_helper", name)
}

// passwdEntry is what the stage needs of a line of /etc/passwd.
type passwdEntry struct {
	uid, gid int
	home     string
}

// lookUser returns the tree's user of that name, or nil.
func lookUser(args *module.Args, name string) (*passwdEntry, error) {
	path, err := treeTarget(args, "/etc/passwd")
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("look for the user in the tree: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if fields[0] != name {
			continue
		}
		if len(fields) != 7 {
			return nil, fmt.Errorf("/etc/passwd of the tree: line of %s has %d fields, not 7", name, len(fields))
		}
		uid, uidErr := strconv.Atoi(fields[2])
		gid, gidErr := strconv.Atoi(fields[3])
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, fmt.Errorf("/etc/passwd of the tree: line of %s: %w", name, err)
		}
		return &passwdEntry{uid: uid, gid: gid, home: fields[5]}, nil
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read /etc/passwd of the tree: %w", err)
	}
	return nil, nil
}

// addKeys appends keys to the user's authorized_keys.
func addKeys(args *module.Args, name string, keys []string) error {
	user, err := lookUser(args, name)
	if err != nil {
		return err
	}
	if user == nil {
		return errors.New("add SSH keys: the user is not in /etc/passwd of the tree")
	}
	dir, err := treeTarget(args, filepath.Join(user.home, ".ssh"))
	if err != nil {
		return err
	}
	err = os.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("add SSH keys: home directory %s does not exist: set \"home\" to have it made", user.home)
	case err == nil:
		err = os.Chown(dir, user.uid, user.gid)
	case errors.Is(err, os.ErrExist):
		err = nil
	}
	if err != nil {
		return fmt.Errorf("add SSH keys: %w", err)
	}
	path, err := treeTarget(args, filepath.Join(user.home, ".ssh/authorized_keys"))
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("add SSH keys: %w", err)
	}
	_, err = file.WriteString(strings.Join(keys, "\n") + "\n")
	err = errors.Join(err, file.Chown(user.uid, user.gid), file.Chmod(0o600), file.Close())
	if err != nil {
		return fmt.Errorf("add SSH keys: %w", err)
	}
	return nil
}
