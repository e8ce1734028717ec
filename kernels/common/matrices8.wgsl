// Cooperative matrices of 8 x 8: the twin of matrices16.wgsl, which see.

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sums = coop_mat8x8<f32, C>;
