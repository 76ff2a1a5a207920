package main

import (
	"fmt"
	"sync"

	"github.com/org/localfront/internal/testengine"
)

// atOnce is how many builds case (j) runs at the same time.
const atOnce = 20

// load is case (j): warm builds of different Dockerfiles at once. The client is
// BuildKit's, in this process, so that twenty command lines do not take the
// processors that are measured.
func load(b *bench) {
	b.compare(row{id: "j", what: fmt.Sprintf("%d warm builds at once", atOnce)}, b.crowd(b.theirs), b.crowd(b.ours))
}

func (b *bench) crowd(frontend string) turn {
	var dirs []string
	for i := range atOnce {
		dirs = append(dirs, b.project(frontend, append(usual[:2:2], fmt.Sprintf("RUN echo %d > /built", i))...))
	}
	return turn{run: func() {
		errs := make([]error, len(dirs))
		var wg sync.WaitGroup
		for i, dir := range dirs {
			wg.Go(func() {
				_, errs[i] = testengine.Build(b.Context(), b, b.daemon, testengine.BuildOpt{Frontend: frontend, Context: dir})
			})
		}
		wg.Wait()
		for _, err := range errs {
			b.Must(err)
		}
	}}
}
