"""The resources: typed models, their bounds and rules, and the manifests made from them. No input or output.

One file per kind. `meta` holds what all share, `definition` what a kind says of itself, `schema` and `crds` make the
manifests, `reference` the page of fields, `validate` warns about what is accepted and would not work, `core` trims
Kubernetes' own kinds to the fields we read.
"""
