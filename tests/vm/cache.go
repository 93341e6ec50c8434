package vm

import "flag"

// DisableTestCache keeps the go command from caching the result of this test binary:
// it does not know of the programs that BuildImage builds, and would pass off a
// result from before they changed. To be called by TestMain before m.Run.
func DisableTestCache() {
	flag.Parse()
	// Without this file, which lists what a test has read, nothing is cached.
	if f := flag.Lookup("test.testlogfile"); f != nil {
		_ = f.Value.Set("") // any text will do
	}
}
