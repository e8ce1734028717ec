// Cooperative matrices of 16 x 16, which a subgroup multiplies together: the twin of matrices8.wgsl. Operands are f16 and sums
// f32. A matrix' elements belong to no invocation that one could name: it comes from memory and goes there.
//
// `wgpu_cooperative_matrix` is an extension of naga's; no other compiler knows it. Keep matrices in variables and not in arrays,
// which drivers have been seen to get wrong.
//
// Constants: EDGE  16

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;
