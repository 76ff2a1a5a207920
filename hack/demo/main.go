// Command demo shows on real engines what localfront ends: a BuildKit daemon, a
// registry on loopback that counts its requests, and the CLI that people use.
// It prints what was done and what happened, and fails if a promise does not
// hold. Run it with make demo.
//
// Each complaint is a scene. The engines and the registry are those of the
// tests (internal/testengine, internal/testregistry); nothing leaves loopback.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// scenes are played in this order, each on a stage of its own.
var scenes = []struct {
	title string
	play  func(*stage)
}{
	{"the complaint: \"load metadata\" on every build, and no build without the network", today},
	{"with localfront: asked once, then remembered", remembered},
	{"what this builder built is the base of the next build", named},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	for i, s := range scenes {
		fmt.Printf("\n%d. %s\n", i+1, s.title)
		if err := perform(ctx, s.play); err != nil {
			return err
		}
	}
	fmt.Println("\nEvery promise held.")
	return nil
}
