// Command growvol-vm-image writes the kernel and the initial RAM filesystem of a test
// guest into a directory, as vmlinuz and initrd, and prints the image's key.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/growvol/growvol/tests/vm"
)

func main() {
	out := flag.String("out", "", "directory to write vmlinuz and initrd into")
	packages := flag.String("packages", "", "further main packages of this module for /usr/bin, separated by commas")
	programs := flag.String("programs", "", "further programs of this machine, as GUEST-PATH=PATH, separated by commas")
	modules := flag.String("modules", "", "further kernel modules, separated by commas")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	key, err := run(ctx, *out, *packages, *programs, *modules)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "growvol-vm-image:", err)
		os.Exit(1)
	}
	fmt.Println(key)
}

func run(ctx context.Context, out, packages, programs, modules string) (string, error) {
	if out == "" {
		return "", fmt.Errorf("--out is missing: name a directory")
	}
	opts := vm.ImageOptions{Packages: fields(packages), Modules: fields(modules), Programs: map[string]string{}}
	for _, p := range fields(programs) {
		guest, host, ok := strings.Cut(p, "=")
		if !ok {
			return "", fmt.Errorf("--programs %q: want GUEST-PATH=PATH", p)
		}
		opts.Programs[guest] = host
	}
	image, err := vm.BuildImage(ctx, out, opts)
	return image.Key, err
}

func fields(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}
