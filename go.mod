module github.com/org/localfront

go 1.26.0

require github.com/moby/buildkit v0.33.1
