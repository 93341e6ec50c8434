{{- /* Expressions (CEL) of the admission policies for changes of a Node, a pod or a claim. */ -}}

{{- /* The change leaves labels, finalizers, owners and spec (without the taints) as they are. */ -}}
{{- define "growvol.sameNode" -}}
object.metadata.?labels.orValue({}) == oldObject.metadata.?labels.orValue({}) &&
object.metadata.?finalizers.orValue([]) == oldObject.metadata.?finalizers.orValue([]) &&
object.metadata.?ownerReferences.orValue([]) == oldObject.metadata.?ownerReferences.orValue([]) &&
object.spec.?unschedulable.orValue(false) == oldObject.spec.?unschedulable.orValue(false) &&
object.spec.?providerID.orValue("") == oldObject.spec.?providerID.orValue("") &&
object.spec.?podCIDRs.orValue([]) == oldObject.spec.?podCIDRs.orValue([])
{{- end }}

{{- /* The change leaves labels, finalizers, owners and spec of a pod as they are. */ -}}
{{- define "growvol.samePod" -}}
object.metadata.?labels.orValue({}) == oldObject.metadata.?labels.orValue({}) &&
object.metadata.?finalizers.orValue([]) == oldObject.metadata.?finalizers.orValue([]) &&
object.metadata.?ownerReferences.orValue([]) == oldObject.metadata.?ownerReferences.orValue([]) &&
object.spec == oldObject.spec
{{- end }}

{{- /* The change leaves all annotations but that of the key as they are. */ -}}
{{- define "growvol.onlyAnnotation" -}}
{{- include "growvol.onlyAnnotations" (list .) -}}
{{- end }}

{{- /* The change leaves all annotations but those of the list of keys as they are. */ -}}
{{- define "growvol.onlyAnnotations" -}}
object.metadata.?annotations.orValue({}).all(k, k in {{ toJson . }} ||
oldObject.metadata.?annotations[?k].orValue("") == object.metadata.annotations[k] &&
k in oldObject.metadata.?annotations.orValue({})) &&
oldObject.metadata.?annotations.orValue({}).all(k, k in {{ toJson . }} || k in object.metadata.?annotations.orValue({}))
{{- end }}

{{- /* The change leaves labels, finalizers, owners and spec of a claim, without the requested size, as they are. */ -}}
{{- define "growvol.sameClaim" -}}
object.metadata.?labels.orValue({}) == oldObject.metadata.?labels.orValue({}) &&
object.metadata.?finalizers.orValue([]) == oldObject.metadata.?finalizers.orValue([]) &&
object.metadata.?ownerReferences.orValue([]) == oldObject.metadata.?ownerReferences.orValue([]) &&
object.spec.?accessModes.orValue([]) == oldObject.spec.?accessModes.orValue([]) &&
object.spec.?volumeName.orValue("") == oldObject.spec.?volumeName.orValue("") &&
object.spec.?volumeMode.orValue("") == oldObject.spec.?volumeMode.orValue("") &&
object.spec.?storageClassName.orValue("") == oldObject.spec.?storageClassName.orValue("") &&
object.spec.?volumeAttributesClassName.orValue("") == oldObject.spec.?volumeAttributesClassName.orValue("") &&
object.spec.?selector == oldObject.spec.?selector &&
object.spec.?dataSource == oldObject.spec.?dataSource &&
object.spec.?dataSourceRef == oldObject.spec.?dataSourceRef &&
object.spec.resources.?limits.orValue({}) == oldObject.spec.resources.?limits.orValue({}) &&
object.spec.resources.requests.all(k, k == "storage" ||
k in oldObject.spec.resources.requests && object.spec.resources.requests[k] == oldObject.spec.resources.requests[k]) &&
oldObject.spec.resources.requests.all(k, k in object.spec.resources.requests)
{{- end }}
