module github.com/org/localfront

go 1.26.8

require github.com/moby/buildkit v0.33.1

require github.com/google/go-containerregistry v0.21.7 // indirect
