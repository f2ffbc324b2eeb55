# shellcheck shell=bash
# Names and archives of the images made for a cluster built here; to be sourced. Each name carries the hash of what is in
# the image, so another content is another name and rolls the pods.
IMAGE_RECIPES=$HERE/image

# image_folder NAME HASH SECONDS WHAT RECIPE ARGUMENT…: the folder with the archive of localhost/headrace-NAME:HASH.
image_folder() {
  local name=$1 hash=$2 seconds=$3 what=$4 recipe=$5; shift 5
  cached "image-$name" "$hash" "$seconds" "$what" "$IMAGE_RECIPES/$recipe" "localhost/headrace-$name:$hash" "$@"
}

# base_image: BASE_IMAGE in buildah's storage, on which all others stand.
base_image() {
  local hash folder
  hash=$({ cat "$IMAGE_RECIPES/base"; uname -m; } | digest)
  folder=$(image_folder base "$hash" 100 "making a Debian root for images" base)
  BASE_IMAGE=localhost/headrace-base:$hash
  in_storage "$BASE_IMAGE" || buildah pull -q "oci-archive:$folder/image.tar" >/dev/null
}

in_storage() { buildah inspect --type image "$1" >/dev/null 2>&1; }

pause_image() {
  local hash folder
  hash=$({ cat "$IMAGE_RECIPES"/pause*; uname -m; } | digest)
  folder=$(image_folder pause "$hash" 5 "making the pods' pause image" pause)
  PAUSE_IMAGE=localhost/headrace-pause:$hash
  PAUSE_ARCHIVE=$folder/image.tar
}

redis_image() {
  local hash folder
  hash=$({ cat "$IMAGE_RECIPES/redis"; echo "$BASE_IMAGE"; } | digest)
  folder=$(image_folder redis "$hash" 30 "making the Redis image" redis "$BASE_IMAGE")
  REDIS_IMAGE=localhost/headrace-redis:$hash
  REDIS_ARCHIVE=$folder/image.tar
}

# app_image operator|runner CONTEXT: into the layout folder of its dependencies; sets IMAGE, LAYOUT and TAG.
app_image() {
  local name=$1 context=$2 key dependencies
  key=$({ cat "$IMAGE_RECIPES/app" "$context/Dockerfile" "$context/dependencies/KEY"; echo "$BASE_IMAGE"; } | digest)
  TAG=$(cat "$context"/code/*.whl | { echo "$key"; cat; } | digest)
  IMAGE=localhost/headrace-$name:$TAG
  LAYOUT=$CACHE/layout-$name/$key
  dependencies=localhost/headrace-$name-dependencies:$key
  mkdir -p "$LAYOUT" "$CACHE/log"
  (
    flock 8
    if has_tag "$LAYOUT" "$TAG"; then exit; fi
    # Each change of code leaves a layer of some megabytes.
    if [ "$(du -sm "$LAYOUT" | cut -f1)" -gt 3000 ]; then rm -rf "${LAYOUT:?}"/*; fi
    expected=8
    in_storage "$dependencies" || expected=60
    with_progress $expected "making the $name image" "$CACHE/log/image-$name.log" \
      "$IMAGE_RECIPES/app" "$LAYOUT" "$TAG" "$BASE_IMAGE" "$context" "$name" "$dependencies" 8>&-
  ) 8>"$CACHE/layout-$name/$key.lock"
  touch "$LAYOUT"
  keep_newest "layout-$name" 2
}

has_tag() { grep -qF "\"org.opencontainers.image.ref.name\":\"$2\"" "$1/index.json" 2>/dev/null; }

# import_app IMAGE LAYOUT TAG: into the node, which is sent the layers it lacks.
import_app() {
  if [ -n "$(ctr images ls -q "name==$1")" ]; then return; fi
  ctr content ls -q | "$LIB/oci-stream" "$2" "$3" "$1" | ctr images import - >/dev/null
  note "imported $1"
}

# import_image IMAGE ARCHIVE: into the node, unless it is there.
import_image() {
  if [ -n "$(ctr images ls -q "name==$1")" ]; then return; fi
  ctr images import "$2" >/dev/null
  note "imported $1"
}
