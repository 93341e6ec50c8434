// Package must ends a test whose call did not go as the test demands:
//
//	must.Succeed(t, driver.Stage(ctx, v))
//	v := must.Value(driver.Create(ctx, …))(t)
//	must.FailWith(t, driver.Stage(ctx, v), codes.Internal, v.ID, "next step")
//
// The end-to-end tests share it. Package status of gRPC gives the codes.
package must

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Succeed ends the test if err is not nil.
func Succeed(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// Value returns a function that ends the test if err is not nil, and returns v
// otherwise. The two steps let it take both results of a call as they are.
func Value[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		Succeed(tb, err)
		return v
	}
}

// FailWith ends the test unless err has the gRPC code. The test fails too, but
// continues, for each of the words that the message of err does not contain.
func FailWith(tb testing.TB, err error, code codes.Code, words ...string) {
	tb.Helper()
	if got := status.Code(err); got != code {
		tb.Fatalf("got code %s, want %s: %v", got, code, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			tb.Errorf("the message does not contain %q: %v", w, err)
		}
	}
}
