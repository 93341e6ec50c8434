// Command kubectl-growvol is a plugin of kubectl: `kubectl growvol status` shows each layer of the
// size of a claim and what is stuck, `kubectl growvol expand` grows claims and shows each stage.
//
// main.go connects the process to package kubectlplugin, which has the commands.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // the ways to log in that kubectl has

	"github.com/growvol/growvol/pkg/kubectlplugin"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return kubectlplugin.Run(ctx, os.Args[1:], genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr})
}
