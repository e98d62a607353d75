# Builds images, and copies them from a Docker Engine to the cluster. tests/e2e/local-cluster sources this file.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of tests/e2e/local-cluster

# Makes `docker` usable: with the running engine, else with a new engine that stops with this script.
engine() {
  docker info >/dev/null 2>&1 && return
  local folder=$base/docker
  packages dockerd:docker.io
  mkdir -p "$folder"
  export DOCKER_HOST=unix://$folder/socket
  # Without its own network: builds use the network of this machine.
  dockerd --host "$DOCKER_HOST" --iptables=false --bridge=none --pidfile "$folder/pid" \
    --data-root "$folder/data" --exec-root "$folder/run" >"$folder/engine.log" 2>&1 &
  engine_pid=$!
  trap end_engine EXIT
  until_true 60 docker info
}
end_engine() {
  kill "$engine_pid" 2>/dev/null || true
  wait "$engine_pid" || true
  # The mounts of dockerd remain after it has stopped.
  unmount "$base/docker/"
}
unmount() { # PREFIX
  awk -v prefix="$1" 'index($2, prefix) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount --lazy || true
}

quietly() { # COMMAND...: shows its output only if it fails
  "$@" >"$base/last.log" 2>&1 || { tail -n 20 "$base/last.log" >&2; fail "failed: $*"; }
}
up_to_date() { # TAR FILE...: the archive exists and is newer than its sources
  local file
  [ -f "$1" ] || return
  for file in "${@:2}"; do [ ! "$file" -nt "$1" ] || return; done
}
save() { # IMAGE TAR: writes a complete archive or none
  docker save --output "$2.new" "$1"
  mv "$2.new" "$2"
}
program_image() { # PROGRAM: builds localhost/PROGRAM:1, which contains only the program
  local tar=$images/$1.tar dockerfile=$pieces/images/program.Dockerfile
  up_to_date "$tar" "$bin/$1" "$dockerfile" && return
  echo "Building the image localhost/$1:1 ..." >&2
  engine
  local folder
  folder=$(mktemp -d)
  mkdir -p "$folder/root/bin"
  cp "$bin/$1" "$folder/root/program"
  # For manifests that start the program by name.
  ln -s /program "$folder/root/bin/$1"
  quietly docker build --file "$dockerfile" --tag "localhost/$1:1" "$folder"
  rm -rf "$folder"
  save "localhost/$1:1" "$tar"
}
debian_image() { # the base of the servers' images
  engine
  docker image inspect localhost/debian:1 >/dev/null 2>&1 && return
  echo "Building the image localhost/debian:1 ..." >&2
  local folder mirror suite
  folder=$(mktemp -d)
  mirror=$(awk '/^URIs:|^deb / { print $2; exit }' /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true)
  # shellcheck source=/dev/null
  suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
  quietly debootstrap --variant=minbase --include=ca-certificates "$suite" "$folder" "$mirror"
  # The images trust the authorities that this machine trusts, and no package starts its server.
  cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
  printf '#!/bin/sh\nexit 101\n' >"$folder/usr/sbin/policy-rc.d"
  chmod +x "$folder/usr/sbin/policy-rc.d"
  rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*
  tar --create --directory "$folder" . | docker import - localhost/debian:1 >/dev/null
  rm -rf "$folder"
}
server_image() { # IMAGE NAME: builds images/NAME.Dockerfile from Debian's packages
  local tar=$images/$2.tar
  up_to_date "$tar" "$pieces/images/$2.Dockerfile" "$pieces/images/$2-entrypoint" && return
  debian_image
  echo "Building the image $1 ..." >&2
  quietly docker build --network host --file "$pieces/images/$2.Dockerfile" --tag "$1" "$pieces/images"
  save "$1" "$tar"
}
base_images() {
  program_image pause
  program_image coredns
  program_image metrics-server
  # The tags of the chart, with Debian's versions of the servers.
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
  running || fail "the cluster is not running (tests/e2e/local-cluster up)"
  engine
  docker save "$@" | ctr --address "$dir/containerd.sock" --namespace k8s.io images import - >/dev/null
  echo "loaded: $*"
}
image() { # IMAGE...
  local name base_image=${BASE:-python:3.11-slim} tool=${BASE_IMAGE_TOOL:-$root/../shared/tools/make-base-image}
  engine
  if ! docker image inspect "$base_image" >/dev/null 2>&1 && ! docker pull --quiet "$base_image" >/dev/null 2>&1; then
    [ -x "$tool" ] || fail "neither a registry nor $tool provides the base image $base_image (BASE_IMAGE_TOOL names another tool)"
    quietly "$tool" "$base_image"
  fi
  quietly make --no-print-directory -C "$root" image IMAGE="$1" BASE="$base_image" DOCKER_ARGS="--network host"
  for name in "${@:2}"; do docker tag "$1" "$name"; done
  load "$@"
}
