// Command growvol-forward listens on one TCP address and forwards every connection
// to another, until it is killed:
//
//	growvol-forward FROM TO
package main

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/growvol/growvol/tests/forward"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: growvol-forward FROM TO, each HOST:PORT")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "growvol-forward:", run(context.Background(), os.Args[1], os.Args[2]))
	os.Exit(1)
}

// run forwards until the listener fails.
func run(ctx context.Context, from, to string) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp4", from)
	if err != nil {
		return err
	}
	return forward.Serve(ctx, listener, forward.To("tcp4", to))
}
