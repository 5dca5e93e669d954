"""Một Cửa on Kubernetes: `make kind-up`, `make k8s-up`, `make redeploy` and their kin. See __main__.py."""
