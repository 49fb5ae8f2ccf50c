package boot

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/ossify/ossify/pattern"
)

var (
	loginPrompt    = pattern.New(`(?m:^)(?:\S+ )?login: `)
	passwordPrompt = pattern.New(`[Pp]assword: `)
	shellPrompt    = pattern.New(`Login incorrect|[$#] (?:$|\n)`)
)

// Login waits for the login prompt and logs in; the machine then is at a shell.
// The password must not be empty.
func (m *Machine) Login(ctx context.Context, user, password string) error {
	for _, step := range []struct {
		wait *regexp.Regexp
		send string
	}{{loginPrompt(), user}, {passwordPrompt(), password}} {
		if _, err := m.Expect(ctx, step.wait); err != nil {
			return fmt.Errorf("log in as %s: %w", user, err)
		}
		if err := m.Send(step.send + "\n"); err != nil {
			return fmt.Errorf("log in as %s: %w", user, err)
		}
	}
	_, answer, err := m.expect(ctx, shellPrompt())
	if err != nil {
		return fmt.Errorf("log in as %s: %w", user, err)
	}
	if answer == "Login incorrect" {
		return fmt.Errorf("log in as %s: the user or the password is wrong", user)
	}
	return nil
}

// Command runs a line in the shell of a machine that is logged in, and returns
// what it printed, without the last newline, and its exit status. Messages that
// the kernel writes to the console meanwhile are part of the output.
func (m *Machine) Command(ctx context.Context, line string) (output string, status int, err error) {
	if strings.ContainsRune(line, '\n') {
		return "", 0, errors.New("run a command: it has more than one line")
	}
	m.commands++
	mark := fmt.Sprintf("ossify-%d", m.commands)
	// The empty quotes keep the echo of what is typed from looking like the marks.
	quoted := "'" + strings.ReplaceAll(line, "'", `'\''`) + "'"
	typed := fmt.Sprintf("echo begin-''%[1]s; eval %[2]s; echo end-''%[1]s-$?\n", mark, quoted)
	if err := m.Send(typed); err != nil {
		return "", 0, fmt.Errorf("run %s: %w", line, err)
	}
	if _, err := m.Expect(ctx, regexp.MustCompile("begin-"+mark+`\n`)); err != nil {
		return "", 0, fmt.Errorf("run %s: %w", line, err)
	}
	text, match, err := m.expect(ctx, regexp.MustCompile("end-"+mark+`-(\d+)\n`))
	if err != nil {
		return "", 0, fmt.Errorf("run %s: %w", line, err)
	}
	status, err = strconv.Atoi(strings.TrimSpace(match[strings.LastIndexByte(match, '-')+1:]))
	if err != nil {
		return "", 0, fmt.Errorf("run %s: its status: %w", line, err)
	}
	return strings.TrimSuffix(strings.TrimSuffix(text, match), "\n"), status, nil
}
