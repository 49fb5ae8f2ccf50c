package main

import (
	"strings"
	"testing"

	"github.com/ossify/ossify/doctor"
)

func TestShowChecks(t *testing.T) {
	var out strings.Builder
	err := showChecks(&out, []doctor.Check{
		{Name: "one", State: doctor.OK, Found: "it is there"},
		{Name: "the other", State: doctor.Missing, Found: "nothing\x1b[31m", Fix: "sudo a # it is short", Lost: "all"},
		{Name: "third", State: doctor.Degraded, Found: strings.Repeat("long ", 30), Fix: "b" + strings.Repeat(" --option", 12) + " # and a comment", Lost: strings.Repeat("much ", 20)},
		{Name: "fourth", State: doctor.Degraded, Found: "not tried"},
	})
	const want = `ok        one        it is there
missing   the other  nothing
          fix:  sudo a # it is short
          lost: all
degraded  third      long long long long long long long long long long long long long long long long
                     long long long long long long long long long long long long long long
          fix:  b --option --option --option --option --option --option --option --option --option \
                --option --option --option
                # and a comment
          lost: much much much much much much much much much much much much much much much much much
                much much much
degraded  fourth     not tried

Ossify cannot build here, for what is missing: the other.
Degraded: third.
`
	if err != nil || out.String() != want {
		t.Errorf("%v\n%s\nwant\n%s", err, &out, want)
	}
}
