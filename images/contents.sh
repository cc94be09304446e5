# What is in each image. Read by images/build, which has image, base, cached and key.
# shellcheck shell=bash disable=SC2034,SC2154,SC2164
target=x86_64-unknown-linux-gnu
: "${CARGO_TARGET_DIR:=$SLUICE_CACHE/target}"
export CARGO_TARGET_DIR
"$SLUICE_ROOT/hack/claim-target" "$CARGO_TARGET_DIR"
static=$CARGO_TARGET_DIR/$target/release
dynamic=$CARGO_TARGET_DIR/release

# One call for the three: alone, each would compile the dependencies with features of its own. Who
# asks for one gets that one, even while another does not compile.
static_programs() {
    local packages=(-p sluice-operator -p sluice-router -p sluice-e2e)
    case $only in
    sluice-*) packages=(-p "$only") ;;
    example-models) packages=(-p sluice-e2e) ;;
    esac
    cd "$SLUICE_ROOT"
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --target $target "${packages[@]}"
}

dynamic_programs() {
    cd "$SLUICE_ROOT"
    cargo build --locked --release -p sluice-inference-pod
}

wants() { # wants NAME…: is one of these to be built?
    [ -z "$only" ] || [[ " $* " == *" $only "* ]]
}

system_images() {
    local bin fixed_tag=1 # the local cluster knows them by fixed names
    bin=$("$SLUICE_ROOT/e2e/cluster/tools")
    image pause scratch pause_contents
    image coredns scratch coredns_contents "$bin/coredns"
}
pause_contents() { cc -static -Os -s -o "$1/pause" "$images/pause/pause.c"; }
coredns_contents() { cp "$bin/coredns" "$1/"; }

product_images() {
    local REPLY name
    if wants sluice-operator sluice-router sluice-e2e example-models; then
        step "building the static programs" static_programs
        for name in sluice-operator sluice-router sluice-e2e; do
            ! wants $name || image $name scratch "${name//-/_}_contents" "$static/$name" "$authorities"
        done
        if wants example-models; then models_image; fi
    fi
    if wants sluice-inference-pod; then inference_image; fi
    if wants sluice-prometheus; then prometheus_image; fi
    if wants example-fastapi; then fastapi_image; fi
}
# Metrics servers are asked over TLS too: the authorities are those of this machine's distribution.
authorities=/etc/ssl/certs/ca-certificates.crt
sluice_operator_contents() { cp "$static/sluice-operator" $authorities "$1/"; }
sluice_router_contents() { cp "$static/sluice-router" "$1/"; }
sluice_e2e_contents() { cp "$static/sluice-e2e" "$1/"; }

inference_image() {
    step "building the inference pod" dynamic_programs
    local library
    library=$("$images/onnxruntime")
    base base ca-certificates
    image sluice-inference-pod "$REPLY" inference_contents "$dynamic/sluice-inference-pod" "$library"
}
inference_contents() { cp "$library" "$dynamic/sluice-inference-pod" "$1/"; }

prometheus_image() {
    local folder
    folder=$SLUICE_CACHE/images/prometheus-files-$(key "$(suite)" "$(declare -f prometheus_files)")
    cached "$folder" "downloading $(suite)'s Prometheus" prometheus_files
    base base ca-certificates
    image sluice-prometheus "$REPLY" prometheus_contents "$folder"
}
prometheus_files() {
    cd "$1"
    # apt's own user may not write here; it says so and downloads as root.
    apt-get download prometheus
    dpkg-deb -x prometheus_*.deb package
    mkdir -p usr/bin
    mv package/usr/bin/prometheus usr/bin/
    rm -rf package prometheus_*.deb
}
prometheus_contents() { cp -r "$folder" "$1/prometheus"; }

fastapi_image() {
    local example=$SLUICE_ROOT/examples/fastapi site
    if [ ! -f "$example/app.py" ]; then
        say "    no image example-fastapi: $example has no app.py"
        return
    fi
    base base-python ca-certificates python3
    # shellcheck disable=SC2034
    python=$(tar -tf "$SLUICE_CACHE/images/base-python-rootfs-${REPLY##*:}/rootfs.tar" | sed -n 's|^\./usr/bin/python\(3\.[0-9]*\)$|\1|p')
    site=$SLUICE_CACHE/wheels/fastapi-$(key "$python" "$example/requirements.txt")
    cached "$site" "installing the FastAPI example's packages for Python $python" fastapi_site
    image example-fastapi "$REPLY" fastapi_contents "$example/app.py" "$site"
}
fastapi_site() {
    python3 -m pip install --no-compile --only-binary=:all: --python-version "$python" --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --target "$1/site" -r "$example/requirements.txt"
}
fastapi_contents() { cp -r "$site/site" "$example/app.py" "$1/"; }

models_image() {
    models=$SLUICE_ROOT/examples/digits/models
    if [ ! -d "$models" ]; then
        say "    no image example-models: there is no $models"
        return
    fi
    image example-models scratch models_contents "$static/sluice-e2e" "$models"
}
models_contents() { cp "$static/sluice-e2e" "$1/" && cp -r "$models" "$1/models"; }
