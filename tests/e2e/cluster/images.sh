# Makes images, and copies them from a Docker Engine to the cluster. Read by tests/e2e/local-cluster.
# shellcheck shell=bash
# shellcheck disable=SC2154 # the folders stand in tests/e2e/local-cluster

# From here on `docker` reaches an engine: the one that runs, else one of our own, which ends with this script.
engine() {
  docker info >/dev/null 2>&1 && return
  local folder=$base/docker
  packages dockerd:docker.io
  mkdir -p "$folder"
  export DOCKER_HOST=unix://$folder/socket
  # Without a network of its own: what it builds uses this machine's.
  dockerd --host "$DOCKER_HOST" --iptables=false --bridge=none --pidfile "$folder/pid" \
    --data-root "$folder/data" --exec-root "$folder/run" >"$folder/engine.log" 2>&1 &
  engine_pid=$!
  trap end_engine EXIT
  until_true 60 docker info
}
end_engine() {
  kill "$engine_pid" 2>/dev/null || true
  wait "$engine_pid" || true
  # What it has mounted stays mounted when it ends.
  unmount "$base/docker/"
}
unmount() { # PREFIX
  awk -v prefix="$1" 'index($2, prefix) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount --lazy || true
}

quietly() { # COMMAND...: what it says is shown only where it fails
  "$@" >"$base/last.log" 2>&1 || { tail -n 20 "$base/last.log" >&2; fail "failed: $*"; }
}
up_to_date() { # TAR FILE...: it is there, and newer than all that it was made of
  local file
  [ -f "$1" ] || return
  for file in "${@:2}"; do [ ! "$file" -nt "$1" ] || return; done
}
save() { # IMAGE TAR: whole or not at all
  docker save --output "$2.new" "$1"
  mv "$2.new" "$2"
}
program_image() { # PROGRAM: as localhost/PROGRAM:1, with nothing else in it
  local tar=$images/$1.tar dockerfile=$pieces/images/program.Dockerfile
  up_to_date "$tar" "$bin/$1" "$dockerfile" && return
  echo "Making the image localhost/$1:1 ..." >&2
  engine
  local folder
  folder=$(mktemp -d)
  mkdir -p "$folder/root/bin"
  cp "$bin/$1" "$folder/root/program"
  # Whoever starts it by a command expects it where programs are.
  ln -s /program "$folder/root/bin/$1"
  quietly docker build --file "$dockerfile" --tag "localhost/$1:1" "$folder"
  rm -rf "$folder"
  save "localhost/$1:1" "$tar"
}
debian_image() { # what the servers' images stand on
  engine
  docker image inspect localhost/debian:1 >/dev/null 2>&1 && return
  echo "Making the image localhost/debian:1 ..." >&2
  local folder mirror suite
  folder=$(mktemp -d)
  mirror=$(awk '/^URIs:|^deb / { print $2; exit }' /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true)
  # shellcheck source=/dev/null
  suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
  quietly debootstrap --variant=minbase --include=ca-certificates "$suite" "$folder" "$mirror"
  # Whom this machine trusts, the images trust; and no package starts its server.
  cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
  printf '#!/bin/sh\nexit 101\n' >"$folder/usr/sbin/policy-rc.d"
  chmod +x "$folder/usr/sbin/policy-rc.d"
  rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*
  tar --create --directory "$folder" . | docker import - localhost/debian:1 >/dev/null
  rm -rf "$folder"
}
server_image() { # IMAGE NAME: of Debian's packages, by images/NAME.Dockerfile
  local tar=$images/$2.tar
  up_to_date "$tar" "$pieces/images/$2.Dockerfile" "$pieces/images/$2-entrypoint" && return
  debian_image
  echo "Making the image $1 ..." >&2
  quietly docker build --network host --file "$pieces/images/$2.Dockerfile" --tag "$1" "$pieces/images"
  save "$1" "$tar"
}
base_images() {
  program_image pause
  program_image coredns
  program_image metrics-server
  # The tags that the chart names; Debian's own versions of them.
  server_image postgres:17 postgres
  server_image redis:7 redis
  server_image rabbitmq:4 rabbitmq
}

import() { # TAR...
  local tar
  for tar in "$@"; do
    ctr --address "$dir/containerd.sock" --namespace k8s.io images import "$tar" >/dev/null
  done
}
load() { # IMAGE...
  running || fail "the cluster is not up (tests/e2e/local-cluster up)"
  engine
  docker save "$@" | ctr --address "$dir/containerd.sock" --namespace k8s.io images import - >/dev/null
  echo "loaded: $*"
}
image() { # IMAGE...
  local name base_image=${BASE:-python:3.11-slim} tool=${BASE_IMAGE_TOOL:-$root/../shared/tools/make-base-image}
  engine
  if ! docker image inspect "$base_image" >/dev/null 2>&1 && ! docker pull --quiet "$base_image" >/dev/null 2>&1; then
    [ -x "$tool" ] || fail "neither a registry nor $tool gives the base image $base_image (BASE_IMAGE_TOOL names another)"
    quietly "$tool" "$base_image"
  fi
  quietly make --no-print-directory -C "$root" image IMAGE="$1" BASE="$base_image" DOCKER_ARGS="--network host"
  for name in "${@:2}"; do docker tag "$1" "$name"; done
  load "$@"
}
