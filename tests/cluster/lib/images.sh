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

# app_image operator|runner CONTEXT: sets IMAGE and ARCHIVE. The older ones of that name go.
app_image() {
  local name=$1 context=$2 hash folder old
  hash=$({ cat "$IMAGE_RECIPES/app" "$context/Dockerfile" "$context/dependencies/KEY"; sha256sum <"$context"/code/*.whl; echo "$BASE_IMAGE"; } | digest)
  folder=$(image_folder "$name" "$hash" 15 "making the $name image" app "$BASE_IMAGE" "$context" "$name")
  IMAGE=localhost/headrace-$name:$hash
  ARCHIVE=$folder/image.tar
  touch "$folder"
  keep_newest "image-$name" 2
}

# import_image IMAGE ARCHIVE: into the node, unless it is there.
import_image() {
  if [ -n "$(ctr images ls -q "name==$1")" ]; then return; fi
  ctr images import "$2" >/dev/null
  note "imported $1"
}
