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
func Succeed(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Value returns a function that ends the test if err is not nil, and returns v
// otherwise. The two steps let it take both results of a call as they are.
func Value[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		Succeed(t, err)
		return v
	}
}

// FailWith ends the test unless err has the gRPC code. The test fails too, but
// continues, for each of the words that the message of err does not contain.
func FailWith(t testing.TB, err error, code codes.Code, words ...string) {
	t.Helper()
	if got := status.Code(err); got != code {
		t.Fatalf("got code %s, want %s: %v", got, code, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the message does not contain %q: %v", w, err)
		}
	}
}
