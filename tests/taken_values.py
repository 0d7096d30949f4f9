"""What arguments take of the wrong values of tests/test_wrong_calls.py: places by the kind of value."""

TAKES: dict[str, str] = {
    "none": """
        ops.is_device_array.array ops.paste_masks.threshold ops.compiling.enabled ModelConfig.categories
        config.make_categories.categories ModelConfig.changed.num_classes masks.are_segmentations.masks
        training.TrainerSettings.max_grad_norm inference.check_exports.name inference.save_drawing.pixels
        images.check_source.name images.ImageHandle.page.page annotation_formats.make_data_set.boxes
        weights.find_backbone.architecture weights.find_backbone.argument
    """,
    "text": """
        export.to_onnx.path
        data.split_coco.group_by
        training.WandbCallback.project training.WandbCallback.folder training.WandbCallback.name
        training.MLflowCallback.experiment training.MLflowCallback.tracking_uri training.MLflowCallback.folder
        training.MLflowCallback.name
        ops.device_name.name ops.is_device_array.array config.Conventions.name masks.are_segmentations.masks
        Detections.to_json.path Detections.to_labelme.file_name data.LabelImages.category data.validate.source
        evaluation.evaluate.group_by evaluation.evaluate_results.group_by evaluation.Evaluation.to_json.path
        training.Trainer.out training.TrainerSettings.keep_best predict_files.out inference.holds_job.out
        inference.check_exports.name
        inference.expand_pattern.text images.load_checked.said_by images.check_source.name
        images.check_source.source images.size_mismatch.path images.size_mismatch.said_by app.AppOptions.weights
        list_weights.architecture weights.assign.source weights.check_fit.source
        weights.find_backbone.architecture weights.find_backbone.argument
    """,
    "empty": """
        ops.begin.arrays ops.evaluate.arrays ops.is_device_array.array ops.parallel_for.tasks
        masks.are_segmentations.masks inference.check_exports.name inference.expand_pattern.text
        images.check_source.name images.check_source.source weights.find_backbone.architecture
        weights.find_backbone.argument
    """,
    "bytes": """
        ops.is_device_array.array ops.parallel_for.tasks masks.are_segmentations.masks
        inference.check_exports.name inference.split_list.content images.check_source.name
        weights.find_backbone.architecture weights.find_backbone.argument
    """,
    "object": """
        ops.is_device_array.array masks.are_segmentations.masks inference.check_exports.name
        images.check_source.name weights.find_backbone.architecture weights.find_backbone.argument
    """,
    "class": """
        ops.is_device_array.array masks.are_segmentations.masks inference.check_exports.name
        images.check_source.name weights.find_backbone.architecture weights.find_backbone.argument
    """,
    "strings": """
        data.split_coco.names
        ops.is_device_array.array masks.are_segmentations.masks inference.check_exports.name
        images.check_source.name weights.find_backbone.architecture weights.find_backbone.argument
        weights.WeightsFile.own_names.names
    """,
    "nan": """
        ops.as_tensor.values ops.fits_float16.values ops.is_device_array.array masks.are_segmentations.masks
        inference.check_exports.name images.check_source.name weights.find_backbone.architecture
        weights.find_backbone.argument
    """,
    "minus": """
        ops.as_tensor.values ops.fits_float16.values ops.full.value ops.is_device_array.array
        ops.multiscale_roi_align.sampling_ratio ops.nonzero_above.threshold ops.roi_align.sampling_ratio
        ops.roi_levels.canonical_level ops.roi_levels.finest_level CompressedMasks.rotated.turns
        CompressedMasks.cropped.top CompressedMasks.cropped.left CompressedMasks.__getitem__.index
        masks.are_segmentations.masks Detections.to_coco.image_id Detections.to_json.image_id
        Predictions.__getitem__.index Detections.__getitem__.index data.CocoInstances.__getitem__.index
        data.LabelImages.__getitem__.index data.Subset.__getitem__.index inference.check_exports.name
        images.check_source.name visualization.color_of.number annotation_formats.make_annotations.image_id
        annotation_formats.make_annotations.first_id annotation_formats.make_results.image_id
        weights.find_backbone.architecture weights.find_backbone.argument
    """,
    "zero": """
        export.to_onnx.score_thresh export.to_onnx.nms_thresh export.to_onnx.top_k
        data.split_coco.seed
        ops.adamw_update.lr ops.adamw_update.betas ops.adamw_update.eps ops.adamw_update.weight_decay
        ops.scale_scalar.factor training.AdamW.lr training.AdamW.betas training.AdamW.weight_decay
        ops.arange.count ops.as_tensor.values ops.batch_norm.momentum ops.batch_norm.eps
        ops.batched_nms.iou_thresh ops.bucket_size.count ops.chunks.count ops.clip_boxes.size ops.dropout.p
        ops.first_rows.count ops.fits_float16.values ops.fold_batch_norm.eps ops.full.count ops.full.value
        ops.grid_anchors.grid ops.is_device_array.array ops.match.background ops.match_boxes.background
        ops.max_pool2d.padding
        ops.moved_averages.share ops.multiscale_roi_align.sampling_ratio ops.nearest_cells.n_out
        ops.nms.iou_thresh ops.nonzero_above.threshold ops.padded_rows.rows ops.mask_patches.image_size
        ops.mask_patches.threshold ops.paste_masks.image_size ops.paste_masks.threshold ops.permutation.count
        ops.remove_small_boxes.min_size ops.roi_align.sampling_ratio ops.roi_levels.canonical_level
        ops.roi_levels.finest_level ops.roi_levels.margin ops.sample_balanced.batch_size
        ops.sample_balanced.positive_fraction ops.sgd_update.lr ops.sgd_update.momentum
        ops.sgd_update.weight_decay ops.shape_only.*shape ops.smooth_l1.divisor ops.split_evenly.count
        ops.take.rows ops.zeros.*shape ROIAlign.sampling_ratio MultiScaleROIAlign.sampling_ratio
        MultiScaleROIAlign.level_margin MaskRCNN.dropout ModelConfig.dropout
        mask_rcnn_resnet_18_fpn.trainable_layers mask_rcnn_resnet_18_fpn.top_k mask_rcnn_resnet_18_fpn.norm_eps
        mask_rcnn_resnet_18_fpn.dropout MaskRCNN.from_config.trainable_layers MaskRCNN.freeze_norms.norm_eps
        MaskRCNN.predict.score_thresh MaskRCNN.predict.nms_thresh MaskRCNN.predict.top_k
        MaskRCNN.predict.mask_thresh MaskRCNN.predict.page MaskRCNN.predict.channels HeadConfig.sampling_ratio
        HeadConfig.foreground_iou HeadConfig.positive_fraction HeadConfig.min_size HeadConfig.nms_thresh
        HeadConfig.top_k RPNConfig.nms_thresh RPNConfig.min_size RPNConfig.background_iou
        RPNConfig.positive_fraction config.BackboneConfig.norm_eps CompressedMasks.decode.index
        CompressedMasks.decode_region.index CompressedMasks.rotated.turns CompressedMasks.cropped.top
        CompressedMasks.cropped.left masks.mask_nms.iou_thresh CompressedMasks.__getitem__.index
        masks.are_segmentations.masks masks.are_segmentations.image_size masks.fill_polygons.image_size
        Detections.mask_thresh Detections.to_coco.image_id Detections.to_json.image_id Detections.draw.alpha
        Detections.draw.line_width Detections.draw.score_thresh Detections.filter.score_thresh
        Detections.filter.min_area Detections.nms.nms_thresh Detections.crops.padding
        Detections.to_dataframe.page Detections.to_geojson.page Predictions.__getitem__.index
        Detections.__getitem__.index Target.from_mapping.index data.Augmentation.horizontal_flip
        data.Augmentation.vertical_flip data.Augmentation.min_visible data.Augmentation.exposure
        data.Augmentation.gamma data.Augmentation.channels data.Augmentation.brightness
        data.Augmentation.contrast data.Augmentation.saturation data.Augmentation.blur data.Augmentation.noise
        data.Augmentation.photographs.horizontal_flip data.Augmentation.microscopy.horizontal_flip
        data.CocoInstances.channels data.CocoInstances.__getitem__.index data.LabelImages.channels
        data.LabelImages.__getitem__.index data.Loader.seed data.Loader.prefetch data.Loader.batch.step
        data.Loader.iterate.start data.Loader.iterate.stop data.Subset.__getitem__.index data.split.seed
        training.validation_losses.seed evaluation.evaluate.score_thresh evaluation.evaluate_results.object_score
        evaluation.match_objects.thresh evaluation.Evaluation.worst.k evaluation.Evaluation.best.k
        evaluation.Evaluation.confusion_matrix.score_thresh evaluation.Evaluation.plot_confusion.score_thresh
        training.EMA.decay training.EMA.restore.updates training.SGD.lr training.SGD.momentum
        training.SGD.weight_decay training.Schedule.warmup training.Schedule.warmup_factor
        training.Schedule.gamma training.Schedule.freeze_bn_lr_factor training.Schedule.factor.step
        training.Schedule.factor.progress training.TrainerSettings.seed training.TrainerSettings.momentum
        training.TrainerSettings.weight_decay training.TrainerSettings.gamma training.TrainerSettings.warmup
        training.TrainerSettings.warmup_factor training.TrainerSettings.ema
        training.TrainerSettings.freeze_bn_lr_factor training.decay_groups.weight_decay predict_files.min_area
        predict_files.max_area predict_files.score_thresh predict_files.nms_thresh predict_files.top_k
        predict_files.mask_thresh predict_files.page predict_files.channels predict_tiled.score_thresh
        predict_tiled.nms_thresh predict_tiled.top_k predict_tiled.mask_thresh predict_tiled.page
        predict_tiled.channels predict_stream.score_thresh predict_stream.nms_thresh predict_stream.top_k
        predict_stream.mask_thresh predict_stream.page predict_stream.channels app.serve_app.port
        inference.check_exports.name images.load_checked.channels images.load_image.page
        images.load_image.channels images.load_pages.page images.load_pages.channels images.check_source.name
        images.size_mismatch.said images.ImageHandle.page.page images.ImageHandle.read.page
        images.ImageHandle.read.channels images.ImageHandle.read_rgb.page images.ImageHandle.read_rgb.channels
        images.ImageHandle.rgb_regions.page images.ImageHandle.rgb_regions.channels
        images.ImageHandle.sample_regions.page images.ImageHandle.read_region.page
        images.ImageHandle.read_region.channels visualization.color_of.number
        visualization.draw_detections.alpha visualization.draw_detections.line_width
        visualization.draw_masks.alpha visualization.draw_masks.thickness visualization.draw_target.alpha
        visualization.draw_target.line_width measure.measure_objects.page app.AppOptions.max_waiting
        annotation_formats.make_annotations.image_id annotation_formats.make_annotations.first_id
        annotation_formats.make_results.image_id weights.find_backbone.architecture
        weights.find_backbone.argument
    """,
    "fraction": """
        ops.adamw_update.lr ops.adamw_update.eps ops.adamw_update.weight_decay ops.scale_scalar.factor
        training.AdamW.lr training.AdamW.eps training.AdamW.weight_decay
        ops.as_tensor.values ops.batch_norm.eps ops.clip_boxes.size ops.fits_float16.values
        ops.fold_batch_norm.eps ops.grid_anchors.stride ops.is_device_array.array ops.nonzero_above.threshold
        ops.remove_small_boxes.min_size ops.roi_align.spatial_scale ops.roi_levels.canonical_size
        ops.sgd_update.lr ops.sgd_update.momentum ops.sgd_update.weight_decay ops.smooth_l1.beta
        ops.smooth_l1.divisor HeadConfig.min_size ImageConfig.scale
        RPNConfig.min_size masks.are_segmentations.masks Detections.draw.line_width Detections.filter.min_area
        Detections.filter.max_area Detections.to_dataframe.pixel_size Detections.to_geojson.pixel_size
        data.Augmentation.zoom data.Augmentation.exposure data.Augmentation.gamma data.Augmentation.channels
        data.Augmentation.blur data.Augmentation.noise training.SGD.lr training.SGD.weight_decay
        training.Schedule.warmup_factor training.Schedule.gamma training.Schedule.freeze_bn_lr_factor
        training.TrainerSettings.lr training.TrainerSettings.weight_decay training.TrainerSettings.gamma
        training.TrainerSettings.warmup_factor training.TrainerSettings.max_grad_norm
        training.TrainerSettings.freeze_bn_lr_factor training.clip_gradients.max_norm
        training.decay_groups.weight_decay predict_files.min_area predict_files.max_area
        inference.check_exports.name images.check_source.name visualization.draw_detections.line_width
        visualization.draw_masks.thickness visualization.draw_target.line_width
        measure.measure_objects.pixel_size app.AppOptions.expire_after weights.find_backbone.architecture
        weights.find_backbone.argument
    """,
    "huge": """
        export.to_onnx.top_k
        ops.adamw_update.lr ops.adamw_update.eps ops.adamw_update.weight_decay ops.scale_scalar.factor
        training.AdamW.lr training.AdamW.eps training.AdamW.weight_decay
        ops.batch_norm.eps ops.bucket_size.count ops.chunks.size ops.clip_boxes.size ops.fold_batch_norm.eps
        ops.grid_anchors.stride ops.is_device_array.array ops.max_pool2d.stride ops.nonzero_above.threshold
        ops.remove_small_boxes.min_size ops.roi_levels.canonical_size ops.sample_balanced.batch_size
        ops.sgd_update.lr ops.sgd_update.momentum ops.sgd_update.weight_decay ops.smooth_l1.beta
        ops.smooth_l1.divisor ops.split_evenly.count ops.split_evenly.parts ops.top_k_per_level.k
        MultiScaleROIAlign.num_levels MaskRCNN.predict.top_k
        MaskRCNN.predict.batch_size HeadConfig.min_size RPNConfig.min_size CompressedMasks.rotated.turns
        masks.are_segmentations.masks Detections.to_coco.image_id Detections.to_json.image_id
        Detections.rows.limit Detections.filter.classes Detections.filter.max_area Detections.crops.padding
        Target.from_mapping.index Target.from_mapping.num_classes data.CocoInstances.channels
        data.LabelImages.channels data.Loader.batch_size data.Loader.seed data.Loader.prefetch
        data.Loader.batch.step data.Loader.iterate.start data.Loader.iterate.stop data.split.seed
        evaluation.evaluate.top_k evaluation.evaluate_results.max_detections
        evaluation.coco_average_precision.max_detections evaluation.contact_sheet.columns
        evaluation.Evaluation.worst.k evaluation.Evaluation.best.k training.EMA.restore.updates training.SGD.lr
        training.SGD.weight_decay training.GradientMean.add.count training.Schedule.warmup
        training.Schedule.warmup_factor training.Schedule.gamma training.Schedule.freeze_bn_lr_factor
        training.Schedule.factor.step training.TrainerSettings.steps training.TrainerSettings.accumulate
        training.TrainerSettings.lr training.TrainerSettings.weight_decay training.TrainerSettings.gamma
        training.TrainerSettings.warmup_factor training.TrainerSettings.max_grad_norm
        training.TrainerSettings.freeze_bn_lr_factor training.TrainerSettings.save_every
        training.TrainerSettings.keep_last training.TrainerSettings.eval_every training.TrainerSettings.patience
        training.TrainerSettings.completed.images_per_step training.clip_gradients.max_norm
        training.decay_groups.weight_decay predict_files.shard_size predict_files.min_area
        predict_files.max_area predict_files.top_k predict_files.page predict_files.channels
        predict_tiled.tile_size predict_tiled.top_k predict_stream.top_k inference.check_exports.name
        images.check_source.name images.size_mismatch.said transforms.resize_boxes.from_size
        transforms.resize_boxes.to_size transforms.resized_size.size visualization.color_of.number
        app.AppOptions.max_upload app.AppOptions.max_pixels app.AppOptions.max_sessions
        app.AppOptions.max_images app.AppOptions.max_files app.AppOptions.max_results app.AppOptions.max_waiting
        app.AppOptions.expire_after visualization.viewing_scale.size
        annotation_formats.make_annotations.image_id annotation_formats.make_annotations.first_id
        annotation_formats.make_results.image_id weights.find_backbone.architecture
        weights.find_backbone.argument
    """,
    "true": """
        ops.as_tensor.values ops.is_device_array.array ops.compiling.enabled masks.are_segmentations.masks
        inference.check_exports.name images.check_source.name weights.find_backbone.architecture
        weights.find_backbone.argument
    """,
    "numbers": """
        ops.as_tensor.values ops.cell_anchors.sizes ops.cell_anchors.aspect_ratios ops.clip_boxes.size
        ops.fits_float16.values ops.grid_anchors.stride ops.is_device_array.array
        ops.multiscale_roi_align.spatial_scales ops.parallel_for.tasks ops.roi_align.spatial_scale
        MaskRCNN.aspect_ratios ModelConfig.aspect_ratios
        mask_rcnn_resnet_18_fpn.aspect_ratios MaskRCNN.predict.intensity config.anchor_levels.anchor_sizes
        ImageConfig.intensity masks.are_segmentations.masks
        Detections.to_dataframe.pixel_size Detections.to_geojson.pixel_size data.Augmentation.zoom
        data.CocoInstances.intensity data.LabelImages.intensity predict_files.intensity predict_tiled.intensity
        predict_stream.intensity inference.check_exports.name images.load_checked.intensity
        images.load_image.intensity images.load_pages.intensity images.check_source.name
        images.ImageHandle.read_rgb.intensity images.ImageHandle.rgb_regions.intensity
        measure.measure_objects.pixel_size weights.find_backbone.architecture weights.find_backbone.argument
        weights.WeightsFile.own_names.names
    """,
    "generator": """
        ops.is_device_array.array masks.are_segmentations.masks inference.check_exports.name
        images.check_source.name weights.find_backbone.architecture weights.find_backbone.argument
        weights.WeightsFile.own_names.names
    """,
    "mapping": """
        training.WandbCallback.config training.MLflowCallback.config training.TrainerSettings.loss_weights
        training.TrainerSettings.class_weights
        ops.is_device_array.array config.config_from_version_0.arguments config.config_from_version_0.categories
        config.make_categories.ids masks.are_segmentations.masks inference.check_exports.name
        images.check_source.name annotation_formats.write_label_image.made_by
        annotation_formats.make_data_set.categories annotation_formats.make_data_set.info
        weights.assign.names weights.check_fit.names weights.find_backbone.architecture
        weights.find_backbone.argument weights.WeightsFile.own_names.names
    """,
    "no rows": """
        ops.array_module.array ops.as_tensor.values ops.begin.arrays ops.cell_anchors.sizes
        ops.cell_anchors.aspect_ratios ops.device_array.array ops.evaluate.arrays ops.fits_float16.values
        ops.grid_anchors.cells ops.is_device_array.array ops.numbers.tensors CompressedMasks.of.masks
        CompressedMasks.from_dense.masks CompressedMasks.from_coco.segmentations
        CompressedMasks.from_labels.labels CompressedMasks.from_patches.patches masks.overlapping_pairs.boxes
        CompressedMasks.__getitem__.index masks.are_segmentations.masks masks.encode_rle.mask
        masks.trace_polygons.mask masks.fill_polygons.polygons Detections.__getitem__.index data.Subset.indices
        evaluation.evaluate.iou_types evaluation.evaluate_results.results evaluation.evaluate_results.iou_types
        evaluation.coco_average_precision.results evaluation.contact_sheet.images training.GradientMean.params
        training.Schedule.milestones training.TrainerSettings.milestones training.clip_gradients.params
        training.decay_groups.params predict_files.paths predict_stream.images inference.check_exports.name
        images.check_source.name images.check_source.source transforms.resize_boxes.boxes
        annotation_formats.bboxes_of.boxes annotation_formats.read_results.results
        annotation_formats.write_label_image.labels weights.find_backbone.architecture
        weights.find_backbone.argument weights.WeightsFile.own_names.names
    """,
    "axes": """
        ops.arange.like ops.array_module.array ops.box_area.boxes ops.cast.x ops.cast_like.x ops.cast_like.like
        ops.clip_boxes.boxes ops.convert.variable ops.device_array.array ops.dropout.x ops.dtype_name.tensor
        ops.fits_float16.values ops.full.like ops.grid_anchors.like ops.host.tensor ops.is_device_array.array
        ops.joined_anchors.like ops.padded_rows.*arrays ops.sigmoid.x ops.take.rows
    """,
    "dtype": """
        ops.arange.like ops.array_module.array ops.cast_like.x ops.cast_like.like ops.device_array.array
        ops.dtype_name.tensor ops.full.like ops.grid_anchors.like ops.host.tensor ops.is_device_array.array
        ops.joined_anchors.like ops.padded_rows.*arrays ops.set_values.variable Target.masks
        transforms.resize_masks.masks
    """,
    "device": """
        ops.scale_scalar.x
        ops.arange.like ops.box_area.boxes ops.cast.x ops.cast_like.x ops.cast_like.like ops.clip_boxes.boxes
        ops.convert.variable ops.dropout.x ops.dtype_name.tensor ops.first_rows.x ops.flatten.x ops.full.like
        ops.grid_anchors.like ops.host.tensor ops.joined_anchors.like ops.match.iou ops.max_pool2d.x
        ops.nonzero_above.scores ops.padded_rows.*arrays ops.mask_patches.mask_probs ops.mask_patches.boxes
        ops.remove_small_boxes.boxes ops.roi_levels.rois ops.sample_balanced.matches ops.set_values.variable
        ops.sigmoid.x ops.softmax.logits ops.subsample.x ops.top_k_per_level.scores MaskRCNN.forward.rois
        MaskRCNN.forward.roi_idx Target.masks transforms.InputCheck.images transforms.check_normalized.images
        transforms.pad.images
    """,
    "array": """
        MaskRCNN.forward.rois MaskRCNN.forward.roi_idx
    """,
    "shorter": """
        ops.arange.like ops.array_module.array ops.as_tensor.values ops.box_area.boxes ops.box_iou.a
        ops.box_iou.b ops.cast.x ops.cast_like.x ops.cast_like.like ops.clip_boxes.boxes ops.compiled.inputs
        ops.concat.parts ops.concat_anchors.maps ops.conv_transpose2d.x ops.convert.variable
        ops.device_array.array ops.dropout.x ops.dtype_name.tensor ops.first_rows.x ops.fits_float16.values
        ops.flatten.x ops.full.like ops.grid_anchors.like ops.host.tensor ops.host_zeros.shape
        ops.is_device_array.array ops.joined_anchors.like ops.linear.x ops.match.iou ops.max_pool2d.x
        ops.match_boxes.gt_boxes ops.match_boxes.boxes
        ops.nonzero_above.scores ops.numbers.tensors ops.padded_rows.*arrays ops.parallel_for.tasks
        ops.remove_small_boxes.boxes ops.roi_levels.rois ops.sample_balanced.matches ops.sigmoid.x
        ops.softmax.logits ops.subsample.x ops.take.rows models.ResNet.forward.x MaskRCNN.aspect_ratios
        models.FeaturePyramid.in_channels
        ModelConfig.anchor_sizes ModelConfig.aspect_ratios mask_rcnn_resnet_18_fpn.aspect_ratios
        MaskRCNN.predict.images config.anchor_levels.anchor_sizes CompressedMasks.of.masks
        CompressedMasks.from_dense.masks CompressedMasks.from_coco.segmentations
        CompressedMasks.from_labels.labels CompressedMasks.concatenated.parts masks.overlapping_pairs.boxes
        CompressedMasks.__getitem__.index masks.are_segmentations.masks masks.encode_rle.mask
        masks.trace_polygons.mask Detections.merge.parts Detections.from_coco.results
        Detections.__getitem__.index data.CocoInstances.categories data.Subset.indices
        evaluation.match_objects.iou evaluation.contact_sheet.images predict_tiled.image
        inference.check_exports.export transforms.InputCheck.images transforms.check_normalized.images
        transforms.pad.images transforms.resize_boxes.boxes transforms.resize_masks.masks
        annotation_formats.bboxes_of.boxes annotation_formats.write_label_image.labels
    """,
    "not finite": """
        ops.scale_scalar.x ops.cross_entropy.weights
        ops.add_scalars.*terms ops.arange.like ops.array_module.array ops.batch_norm.x ops.batch_norm.weight
        ops.batch_norm.bias ops.batch_norm.running_mean ops.batch_norm.running_var ops.batch_norm.residual
        ops.batched_nms.boxes ops.batched_nms.scores ops.binary_cross_entropy.x ops.box_area.boxes ops.box_iou.a
        ops.box_iou.b ops.cast.x ops.cast_like.x ops.cast_like.like ops.clip_boxes.boxes ops.compiled.inputs
        ops.conv2d.x ops.conv2d.weight ops.conv2d.bias ops.conv2d.scale ops.conv2d.residual
        ops.conv_transpose2d.x ops.conv_transpose2d.weight ops.conv_transpose2d.bias ops.convert.variable
        ops.cross_entropy.logits ops.decode_boxes.deltas ops.decode_boxes.boxes ops.detect_boxes.cls_logits
        ops.detect_boxes.bbox_deltas ops.device_array.array ops.dropout.x ops.dtype_name.tensor
        ops.encode_boxes.reference ops.encode_boxes.boxes ops.filter_proposals.objectness
        ops.filter_proposals.deltas ops.filter_proposals.anchors ops.finite_rows.boxes ops.finite_rows.scores
        ops.first_rows.x ops.fits_float16.values ops.flatten.x ops.fold_batch_norm.weight
        ops.fold_batch_norm.bias ops.fold_batch_norm.running_mean ops.fold_batch_norm.running_var ops.full.like
        ops.grid_anchors.like ops.host.tensor ops.is_device_array.array ops.joined_anchors.like ops.linear.x
        ops.linear.weight ops.linear.bias ops.mask_targets.gt_masks ops.mask_targets.rois ops.match.iou
        ops.match_boxes.gt_boxes ops.match_boxes.boxes
        ops.max_pool2d.x ops.multiscale_roi_align.rois ops.nms.boxes ops.nms.scores ops.nonzero_above.scores
        ops.one_channel.x ops.one_channel.weight ops.one_channel.bias ops.padded_rows.*arrays
        ops.mask_patches.mask_probs ops.mask_patches.boxes ops.paste_masks.mask_probs ops.paste_masks.boxes
        ops.pick.x ops.remove_small_boxes.boxes ops.roi_align.features ops.roi_align.rois ops.roi_levels.rois
        ops.set_values.variable ops.set_values.values ops.sigmoid.x ops.smooth_l1.x ops.smooth_l1.targets
        ops.softmax.logits ops.subsample.x ops.take.x ops.top_k_per_level.scores ops.upsample_add.coarse
        ops.upsample_add.fine ROIAlign.forward.rois MultiScaleROIAlign.forward.rois models.ResNet.forward.x
        MaskRCNN.forward.rois Target.boxes transforms.pad.images transforms.resize_boxes.boxes
        annotation_formats.bboxes_of.boxes annotation_formats.make_annotations.boxes
        annotation_formats.make_results.boxes annotation_formats.make_data_set.boxes
    """,
}
