// Command judge compares a report of Kubernetes' suite for storage (ginkgo's JSON) with
// the expected results of a backend, and prints the results in Markdown. It fails if the
// run has a problem.
//
//	judge -backend=cinder|loop [-whole] REPORT
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/growvol/growvol/tests/kubernetes/conformance"
)

func main() {
	backend := flag.String("backend", "", "backend whose failures and skips are expected: cinder or loop")
	whole := flag.Bool("whole", false, "the run is of the whole suite: a spec that was not selected is a problem")
	flag.Parse()
	if *backend == "" || flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: judge -backend=cinder|loop [-whole] REPORT")
		os.Exit(2)
	}
	problems, err := judge(*backend, flag.Arg(0), *whole)
	if err != nil {
		fmt.Fprintln(os.Stderr, "judge:", err)
		os.Exit(1)
	}
	if problems {
		os.Exit(1)
	}
}

// judge prints the problems and the results of a report, and reports whether there are
// problems.
func judge(backend, path string, whole bool) (problems bool, err error) {
	expected, err := conformance.ExpectedOf(backend)
	if err != nil {
		return false, err
	}
	file, err := os.Open(path) //nolint:gosec // the user's choice
	if err != nil {
		return false, err
	}
	defer file.Close() //nolint:errcheck // only read from
	report, err := conformance.ReadReport(file)
	if err != nil {
		return false, err
	}
	verdict := conformance.Judge(report, expected, whole)
	for _, p := range verdict.Problems {
		fmt.Fprintln(os.Stderr, p)
	}
	fmt.Print(verdict.Markdown())
	return len(verdict.Problems) > 0, nil
}
