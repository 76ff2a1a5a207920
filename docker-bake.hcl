// docker buildx bake              the image, for this machine
// docker buildx bake image-cross  the image, for every platform it ships for
// docker buildx bake validate     lint, tests without engines, builds
//
// What needs real engines runs on a machine: make test.

variable "VERSION" {
  description = "What the binary and the image say they are"
  default     = "devel"
}

variable "IMAGE" {
  default = "ghcr.io/org/localfront"
}

group "default" {
  targets = ["image"]
}

group "validate" {
  targets = ["lint", "test", "builds"]
}

// Tags and labels; the release replaces this target with its own.
target "docker-metadata-action" {
  tags = ["${IMAGE}:devel"]
}

target "image" {
  inherits = ["docker-metadata-action"]
  target   = "image"
  args = {
    VERSION = VERSION
  }
}

target "image-cross" {
  inherits = ["image"]
  platforms = [
    "linux/amd64",
    "linux/arm64",
    "linux/arm/v7",
    "linux/386",
    "linux/ppc64le",
    "linux/riscv64",
    "linux/s390x",
  ]
}

target "lint" {
  target = "lint"
  output = ["type=cacheonly"]
}

target "test" {
  target = "test"
  output = ["type=cacheonly"]
}

// Compiles for every platform, and proves that the binary is reproducible.
target "builds" {
  target = "builds"
  output = ["type=cacheonly"]
}
